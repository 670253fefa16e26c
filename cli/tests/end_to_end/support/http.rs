//! HTTP for code that does not want to be asynchronous.

use reqwest::{Client, Response};
use std::sync::LazyLock;
use tokio::runtime::Runtime;

/// Drives every request of the tests, those of the devices too.
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// A client with connections of its own.
pub fn client() -> Client {
    Client::builder().no_proxy().timeout(std::time::Duration::from_secs(60)).build().unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub body: String,
}

impl Answer {
    pub async fn read(response: Response) -> reqwest::Result<Answer> {
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Answer { status, retry_after, body: response.text().await? })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }
}

/// One request on a connection of its own.
pub fn post(url: &str, content_type: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<Answer> {
    let request = client().post(url).header("content-type", content_type).body(body);
    RUNTIME.block_on(async { Answer::read(request.send().await?).await })
}

pub fn get(url: &str) -> reqwest::Result<Answer> {
    let request = client().get(url);
    RUNTIME.block_on(async { Answer::read(request.send().await?).await })
}
