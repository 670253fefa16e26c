//! Reads a body, bounded in size, time and the bytes of all requests under way, whatever `Content-Length` claims.
//!
//! Memory is taken as bytes arrive, so a claim costs nothing. A body that came in one piece is not copied.

use crate::pressure::{Reservation, Spent};
use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::time::Duration;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    TooLarge,
    /// The bytes in flight are spent.
    Busy,
    /// It took too long.
    Slow,
    /// The connection broke, or the body is not what HTTP allows.
    Broken,
}

impl From<Spent> for Stopped {
    fn from(Spent: Spent) -> Stopped {
        Stopped::Busy
    }
}

/// A body that is arriving.
pub(crate) struct Upload {
    stream: BodyDataStream,
    /// Nothing more is to be read.
    ended: bool,
}

/// What is left of a refused body is read and thrown away up to these bounds: closing a connection on a sender that is
/// still sending resets it, and the sender would never see the answer.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

impl Upload {
    pub(crate) fn new(body: Body) -> Upload {
        Upload { stream: body.into_data_stream(), ended: false }
    }

    /// The whole body, at most `max` bytes of it and within `timeout`. What it occupies is added to `held`.
    pub(crate) async fn read(
        &mut self,
        max: usize,
        timeout: Duration,
        held: &mut Reservation,
    ) -> Result<Bytes, Stopped> {
        match tokio::time::timeout(timeout, self.collect(max, held)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Nobody waits for the rest of a body that was too slow.
                self.ended = true;
                Err(Stopped::Slow)
            }
        }
    }

    /// Throws away what has not been read, in the background.
    pub(crate) fn discard(mut self) {
        if self.ended {
            return;
        }
        tokio::spawn(tokio::time::timeout(DISCARD_TIME, async move {
            let mut seen = 0;
            while let Ok(Some(chunk)) = self.chunk().await {
                seen += chunk.len();
                if seen > DISCARD_BYTES {
                    break;
                }
            }
        }));
    }

    async fn collect(&mut self, max: usize, held: &mut Reservation) -> Result<Bytes, Stopped> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        if first.len() > max {
            return Err(Stopped::TooLarge);
        }
        held.grow(first.len())?;
        let Some(mut next) = self.chunk().await? else { return Ok(first) };

        let mut whole = BytesMut::from(first);
        let mut capacity = whole.len();
        loop {
            let len = whole.len() + next.len();
            if len > max {
                return Err(Stopped::TooLarge);
            }
            if len > capacity {
                let doubled = (capacity * 2).clamp(len, max);
                held.grow(doubled - capacity)?;
                whole.reserve(doubled - whole.len());
                capacity = doubled;
            }
            whole.extend_from_slice(&next);
            match self.chunk().await? {
                Some(chunk) => next = chunk,
                None => return Ok(whole.freeze()),
            }
        }
    }

    /// The next piece that is not empty; `None` at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Stopped> {
        loop {
            match self.stream.next().await {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Ok(Some(chunk)),
                Some(Err(_)) => {
                    self.ended = true;
                    return Err(Stopped::Broken);
                }
                None => {
                    self.ended = true;
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure::Budget;
    use futures::stream;

    const LONG: Duration = Duration::from_secs(60);

    fn upload(chunks: &[&'static str]) -> Upload {
        let chunks: Vec<Result<Bytes, std::io::Error>> =
            chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        Upload::new(Body::from_stream(stream::iter(chunks)))
    }

    #[tokio::test]
    async fn pieces_are_joined_and_accounted_for() {
        let budget = Budget::new(100);
        let mut held = budget.reserve();
        let body = upload(&["ab", "", "cde", "f"]).read(10, LONG, &mut held).await.unwrap();
        assert_eq!(body, "abcdef");
        assert!((6..=10).contains(&budget.used()));
        drop(held);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn stops_at_the_first_byte_too_many() {
        let budget = Budget::new(100);
        let read = async |chunks: &[&'static str], max| upload(chunks).read(max, LONG, &mut budget.reserve()).await;
        assert_eq!(read(&["abcd"], 4).await.unwrap(), "abcd");
        assert_eq!(read(&["abcd"], 3).await, Err(Stopped::TooLarge));
        assert_eq!(read(&["ab", "cd"], 4).await.unwrap(), "abcd");
        assert_eq!(read(&["ab", "cd"], 3).await, Err(Stopped::TooLarge));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn stops_when_the_budget_is_spent_by_others() {
        let budget = Budget::new(5);
        let mut other = budget.reserve();
        other.grow(3).unwrap();
        assert_eq!(upload(&["ab", "cd"]).read(10, LONG, &mut budget.reserve()).await, Err(Stopped::Busy));
        assert_eq!(budget.used(), 3);
    }

    #[tokio::test]
    async fn stops_when_the_sender_is_too_slow() {
        let chunks = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"ab"))]).chain(stream::pending());
        let mut upload = Upload::new(Body::from_stream(chunks));
        let budget = Budget::new(5);
        assert_eq!(upload.read(10, Duration::from_millis(20), &mut budget.reserve()).await, Err(Stopped::Slow));
    }
}
