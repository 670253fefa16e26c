//! A device: posts its events in their order, and again with the same ids until they are acknowledged.

use super::http::Answer;
use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::Client;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What a device knows of one event at the end: it was acknowledged, and how often it may have been stored.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub seq: u64,
    /// 1, and one more for each time the device did not learn what became of it.
    pub attempts: u32,
}

/// One device of a fleet.
#[derive(Debug, Clone)]
pub struct Device {
    pub number: usize,
    pub events: u64,
    pub batch: u64,
    /// Time between two batches.
    pub pause: Duration,
    /// `time` of its events: this, a millisecond later each, and for some of them on the days before.
    pub since: DateTime<Utc>,
    /// Bytes that each event carries for nothing.
    pub padding: usize,
}

/// How long a device waits at most before it tries again, whatever `Retry-After` says: tests are in a hurry.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

impl Device {
    pub fn name(&self) -> String {
        Device::name_of(self.number)
    }

    pub fn name_of(number: usize) -> String {
        format!("device-{number:03}")
    }

    /// Every value can be computed from `seq` and `at`, so the table can be checked without knowing what was posted.
    pub fn event(&self, seq: u64) -> Value {
        let days = chrono::Duration::days((seq % 3) as i64);
        let time = self.since - days + chrono::Duration::milliseconds(seq as i64);
        let name = self.name();
        let mut event = json!({
            "id": format!("{name}/{seq}"),
            "device_id": name,
            "type": "reading",
            "time": time.to_rfc3339_opts(SecondsFormat::Micros, true),
            "data": {
                "seq": seq,
                // One in ten is not what was declared, and must be found in `data` as it came.
                "temp": if seq % 10 == 7 { json!("broken") } else { json!(seq as f64 / 4.0) },
                "os": { "fw": format!("1.{}", seq % 5), "at": time.timestamp_millis() },
                "note": "a \"quoted\" ünïcode note",
            },
        });
        if self.padding > 0 {
            event["data"]["padding"] = padding(seq, self.padding).into();
        }
        event
    }

    /// Posts all events, or those before it is `enough`, and returns what it knows of each. `acknowledged` grows
    /// meanwhile.
    pub async fn run(
        self,
        client: Client,
        address: watch::Receiver<String>,
        acknowledged: &AtomicU64,
        enough: &AtomicBool,
    ) -> Vec<Entry> {
        let mut ledger = Vec::new();
        for first in (0..self.events).step_by(self.batch as usize) {
            if enough.load(Ordering::Relaxed) {
                break;
            }
            let mut pending: Vec<Entry> =
                (first..self.events.min(first + self.batch)).map(|seq| Entry { seq, attempts: 1 }).collect();
            while !pending.is_empty() {
                let url = address.borrow().clone();
                let done = self.post(&client, &url, &mut pending).await;
                acknowledged.fetch_add(done.len() as u64, Ordering::Relaxed);
                ledger.extend(done);
            }
            tokio::time::sleep(self.pause).await;
        }
        ledger
    }

    /// Posts once. Takes what was acknowledged out of `pending`.
    async fn post(&self, client: &Client, url: &str, pending: &mut Vec<Entry>) -> Vec<Entry> {
        let events: Vec<Value> = pending.iter().map(|entry| self.event(entry.seq)).collect();
        let (content_type, body) = match self.number % 2 {
            0 => ("application/json", Value::from(events).to_string()),
            _ => ("application/x-ndjson", events.iter().map(|event| format!("{event}\n")).collect()),
        };
        let sent = client.post(url).header("content-type", content_type).body(body).send().await;
        let answer = match sent {
            // Nobody was there, so nothing was stored.
            Err(err) if err.is_connect() => {
                tokio::time::sleep(LONGEST_WAIT / 5).await;
                return Vec::new();
            }
            Err(err) => Err(err),
            Ok(response) => Answer::read(response).await,
        };
        match answer {
            Ok(answer) if answer.status == 202 => self.settle(&answer.json(), pending),
            Ok(answer) if answer.status == 503 => {
                let wait = answer.retry_after.unwrap_or_else(|| panic!("503 without Retry-After: {answer:?}"));
                pending.iter_mut().for_each(|entry| entry.attempts += 1);
                tokio::time::sleep(LONGEST_WAIT.min(Duration::from_secs(wait))).await;
                Vec::new()
            }
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => {
                pending.iter_mut().for_each(|entry| entry.attempts += 1);
                tokio::time::sleep(LONGEST_WAIT / 5).await;
                Vec::new()
            }
        }
    }

    /// Reads a 202: some events of the request may have to be sent again.
    fn settle(&self, report: &Value, pending: &mut Vec<Entry>) -> Vec<Entry> {
        let rejected = report["rejected"].as_array().unwrap();
        let accepted = report["accepted"].as_u64().unwrap() as usize;
        assert_eq!(accepted + rejected.len(), pending.len(), "{report}");
        let mut again = Vec::new();
        for rejection in rejected {
            assert_eq!(rejection["reason"], "log_unavailable", "{report}");
            let entry = pending[rejection["index"].as_u64().unwrap() as usize];
            again.push(Entry { attempts: entry.attempts + 1, ..entry });
        }
        let mut done = std::mem::replace(pending, again);
        done.retain(|entry| pending.iter().all(|again| again.seq != entry.seq));
        done
    }
}

/// Text that does not compress to nothing.
fn padding(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        // xorshift
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(bytes);
    text
}
