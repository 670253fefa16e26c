//! Posts events to a gateway as a well-behaved device does: what is refused for now is sent again, in its order, after
//! the time that the gateway asks for.

use anyhow::{Context, bail};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::time::{Duration, Instant};
use url::Url;

/// How long a gateway may refuse everything before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What to wait when the gateway does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// Rejections that are told in full.
const SHOWN: usize = 5;

/// A gateway, and what became of the events posted to it.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    pub totals: Totals,
}

#[derive(Debug, Default)]
pub struct Totals {
    pub accepted: u64,
    pub duplicates: u64,
    pub rejected: u64,
    pub requests: u64,
    /// Requests after which some events had to be sent again.
    pub repeated: u64,
    /// The first rejections, in words.
    pub reasons: Vec<String>,
}

/// The body of any answer, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    accepted: u64,
    duplicates: u64,
    rejected: Vec<Rejection>,
    title: String,
    detail: String,
}

#[derive(Debug, Deserialize)]
struct Rejection {
    index: usize,
    id: Option<String>,
    reason: String,
    detail: Option<String>,
}

impl Rejection {
    /// The event is good, but not now.
    fn is_for_now(&self) -> bool {
        matches!(self.reason.as_str(), "rate_limited" | "log_unavailable")
    }
}

impl Client {
    pub fn new(url: Url) -> anyhow::Result<Client> {
        // A proxy of the environment is for other machines.
        let http = reqwest::Client::builder().no_proxy().build().context("set up HTTP")?;
        Ok(Client { http, url, totals: Totals::default() })
    }

    /// Posts these events, each a line, until the fate of every one is known.
    pub async fn post(&mut self, lines: &[String]) -> anyhow::Result<()> {
        let mut waiting: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut last_progress = Instant::now();
        while !waiting.is_empty() {
            let response = self.send(waiting.join("\n")).await?;
            let (status, wait) = (response.status(), retry_after(&response));
            let body = response.bytes().await.with_context(|| format!("cannot read the answer of {}", self.url))?;
            let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
            let again = self.settle(status, answer, &waiting)?;
            if again.len() < waiting.len() {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > PATIENCE {
                bail!("{} has refused all events for {}: {status}", self.url, humantime::format_duration(PATIENCE));
            }
            waiting = again;
            if !waiting.is_empty() {
                self.totals.repeated += 1;
                tokio::time::sleep(wait.unwrap_or(DEFAULT_WAIT)).await;
            }
        }
        Ok(())
    }

    async fn send(&mut self, body: String) -> anyhow::Result<Response> {
        self.totals.requests += 1;
        let request = self.http.post(self.url.clone()).header(CONTENT_TYPE, "application/x-ndjson").body(body);
        request
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("cannot post to {} (is the gateway running there? --to names another)", self.url))
    }

    /// Counts what is decided; returns what must be sent again.
    fn settle<'a>(&mut self, status: StatusCode, answer: Answer, sent: &[&'a str]) -> anyhow::Result<Vec<&'a str>> {
        let for_now = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if for_now && answer.rejected.is_empty() {
            return Ok(sent.to_vec());
        }
        let looked_at = for_now || matches!(status, StatusCode::ACCEPTED | StatusCode::BAD_REQUEST);
        if !looked_at || (status != StatusCode::ACCEPTED && answer.rejected.is_empty()) {
            bail!("{} answers {}: {}: {}", self.url, status.as_u16(), answer.title, answer.detail);
        }
        self.totals.accepted += answer.accepted;
        self.totals.duplicates += answer.duplicates;
        let mut again = Vec::new();
        for rejection in answer.rejected {
            match sent.get(rejection.index) {
                Some(line) if rejection.is_for_now() => again.push(*line),
                _ => self.totals.reject(rejection),
            }
        }
        Ok(again)
    }
}

impl Totals {
    fn reject(&mut self, Rejection { id, reason, detail, .. }: Rejection) {
        self.rejected += 1;
        if self.reasons.len() < SHOWN {
            let which = id.map(|id| format!("{id}: ")).unwrap_or_default();
            let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
            self.reasons.push(format!("{which}{reason}{detail}"));
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(Url::parse("http://127.0.0.1:1/v1/events/events").unwrap()).unwrap()
    }

    fn settle(client: &mut Client, status: u16, body: &str, sent: &[&str]) -> Result<Vec<String>, String> {
        let answer = serde_json::from_str(body).unwrap();
        let again = client.settle(StatusCode::from_u16(status).unwrap(), answer, sent);
        again.map(|again| again.into_iter().map(str::to_owned).collect()).map_err(|err| err.to_string())
    }

    #[test]
    fn what_is_refused_for_now_is_sent_again_and_the_rest_is_counted() {
        let mut client = client();
        let body = r#"{"accepted":1,"duplicates":1,"rejected":[{"index":1,"id":"x","reason":"invalid_time","detail":"old"},
            {"index":3,"reason":"rate_limited"}]}"#;
        assert_eq!(settle(&mut client, 202, body, &["a", "b", "c", "d"]).unwrap(), ["d"]);
        let Totals { accepted, duplicates, rejected, reasons, .. } = client.totals;
        assert_eq!((accepted, duplicates, rejected), (1, 1, 1));
        assert_eq!(reasons, ["x: invalid_time (old)"]);
    }

    #[test]
    fn a_busy_gateway_gets_everything_again() {
        for status in [429, 503] {
            assert_eq!(settle(&mut client(), status, r#"{"title":"Busy"}"#, &["a", "b"]).unwrap(), ["a", "b"]);
        }
    }

    #[test]
    fn a_refusal_that_no_retry_cures_is_told() {
        let body = r#"{"title":"There is no such dataset","detail":"the datasets here are: events"}"#;
        let problem = settle(&mut client(), 404, body, &["a"]).unwrap_err();
        assert!(problem.contains("404") && problem.contains("events"), "{problem}");
    }
}
