//! Reads a body, bounded in size, time and the bytes of all requests under way, whatever `Content-Length` claims.
//!
//! Memory is taken as bytes arrive, so a claim costs nothing. A body that came in one piece is not copied. A compressed
//! one is decompressed while it arrives: its bound applies to what comes out, and stops at the first byte too many, so a
//! bomb costs no more than the largest body does.
//!
//! A sender has a time for the whole body, and must keep up a least rate besides: in each window of so many seconds so
//! many bytes, however many came before. An average would let who has sent much fall silent; a time-out between two
//! bytes would let one byte every few seconds pass, and cut off a device whose network is gone for a moment. A window
//! lets a network stall for nearly all of its length.

mod coding;
mod decompress;

pub(crate) use coding::{CODINGS, Coding};
pub(crate) use decompress::{DECODER_BYTES, Undecodable};

use crate::pressure::{Reservation, Spent};
use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use decompress::Decoder;
use futures::StreamExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Why a body was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    TooLarge,
    /// The bytes in flight are spent.
    Busy,
    /// It took too long.
    Slow,
    /// The connection broke, or the body is not what HTTP allows.
    Broken,
    Undecodable(Undecodable),
}

impl From<Spent> for Stopped {
    fn from(Spent: Spent) -> Stopped {
        Stopped::Busy
    }
}

impl From<Undecodable> for Stopped {
    fn from(undecodable: Undecodable) -> Stopped {
        Stopped::Undecodable(undecodable)
    }
}

/// What every body is held to.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Most bytes, both as they come and after decompression.
    pub(crate) max: usize,
    /// For the whole body.
    pub(crate) timeout: Duration,
    /// Within each of these the sender must send so many bytes, or the rest.
    pub(crate) window: Duration,
    pub(crate) window_bytes: usize,
}

/// A body that is arriving.
pub(crate) struct Upload {
    stream: BodyDataStream,
    /// Nothing more is to be read.
    ended: bool,
}

/// A body that is here.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) body: Bytes,
    /// Bytes that were sent for it.
    pub(crate) received: usize,
}

/// What is left of a refused body is read and thrown away up to these bounds: closing a connection on a sender that is
/// still sending resets it, and the sender would never see the answer.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Decompressed in one go, at most; and what a first piece of memory for it is.
const PIECE: usize = 64 * 1024;
/// After so much work other requests get their turn: some tenths of a millisecond.
const TURN: usize = 256 * 1024;
/// What a step of a decoder counts for, however little it moves: about what a new member or frame costs.
const STEP: usize = 4 * 1024;

impl Upload {
    pub(crate) fn new(body: Body) -> Upload {
        Upload { stream: body.into_data_stream(), ended: false }
    }

    /// The whole body, within its bounds. What it occupies is added to `held`.
    pub(crate) async fn read(
        &mut self,
        coding: Coding,
        bounds: &Bounds,
        held: &mut Reservation,
    ) -> Result<Read, Stopped> {
        let received = AtomicUsize::new(0);
        let outcome = tokio::select! {
            // What is here already needs no timer.
            biased;
            outcome = self.collect(coding, bounds.max, held, &received) => Some(outcome),
            () = falls_behind(&received, bounds) => None,
        };
        let Some(outcome) = outcome else {
            // Nobody waits for the rest of a body that was too slow.
            self.ended = true;
            return Err(Stopped::Slow);
        };
        Ok(Read { body: outcome?, received: received.into_inner() })
    }

    /// Throws away what has not been read, in the background.
    pub(crate) fn discard(mut self) {
        if self.ended {
            return;
        }
        tokio::spawn(tokio::time::timeout(DISCARD_TIME, async move {
            let seen = AtomicUsize::new(0);
            while let Ok(Some(_)) = self.chunk(&seen).await {
                if seen.load(Ordering::Relaxed) > DISCARD_BYTES {
                    break;
                }
            }
        }));
    }

    async fn collect(
        &mut self,
        coding: Coding,
        max: usize,
        held: &mut Reservation,
        received: &AtomicUsize,
    ) -> Result<Bytes, Stopped> {
        match coding {
            Coding::Identity => self.join(max, held, received).await,
            Coding::Gzip | Coding::Zstd => self.decompress(coding, max, held, received).await,
        }
    }

    async fn join(&mut self, max: usize, held: &mut Reservation, received: &AtomicUsize) -> Result<Bytes, Stopped> {
        let Some(first) = self.chunk(received).await? else { return Ok(Bytes::new()) };
        if first.len() > max {
            return Err(Stopped::TooLarge);
        }
        held.grow(first.len())?;
        let Some(mut next) = self.chunk(received).await? else { return Ok(first) };

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
            match self.chunk(received).await? {
                Some(chunk) => next = chunk,
                None => return Ok(whole.freeze()),
            }
        }
    }

    async fn decompress(
        &mut self,
        coding: Coding,
        max: usize,
        held: &mut Reservation,
        received: &AtomicUsize,
    ) -> Result<Bytes, Stopped> {
        // A decoder is made for who sends something, not for who says that he will.
        let mut next = self.chunk(received).await?;
        let Some(mut decoder) = next.as_ref().and_then(|_| Decoder::new(coding)) else { return Ok(Bytes::new()) };
        let mut occupied = decoder.occupies();
        held.grow(occupied)?;
        // One byte more than allowed, to see that there is one.
        let mut whole = Growing { bytes: Vec::new(), most: max.saturating_add(1) };
        let mut work = 0;
        while let Some(chunk) = next {
            // Members without content and frames to be skipped have no bound in what comes out.
            if received.load(Ordering::Relaxed) > max {
                return Err(Stopped::TooLarge);
            }
            let mut rest = &chunk[..];
            loop {
                let len = whole.bytes.len();
                let step = decoder.step(rest, whole.room(held)?)?;
                whole.bytes.truncate(len + step.produced);
                if whole.bytes.len() > max {
                    return Err(Stopped::TooLarge);
                }
                // A zstd decoder takes its window when it has read a frame's header, and says so here.
                let occupies = decoder.occupies();
                held.grow(occupies.saturating_sub(occupied))?;
                occupied = occupied.max(occupies);

                work += step.consumed + step.produced + STEP;
                if work >= TURN {
                    work = 0;
                    tokio::task::yield_now().await;
                }
                rest = &rest[step.consumed..];
                if rest.is_empty() && !step.more {
                    break;
                }
            }
            next = self.chunk(received).await?;
        }
        decoder.finish()?;
        drop(decoder);
        held.shrink(occupied);
        Ok(whole.finish(held))
    }

    /// The next piece that is not empty; `None` at the end.
    async fn chunk(&mut self, received: &AtomicUsize) -> Result<Option<Bytes>, Stopped> {
        loop {
            match self.stream.next().await {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    received.fetch_add(chunk.len(), Ordering::Relaxed);
                    return Ok(Some(chunk));
                }
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

/// Bytes of unknown number, whose memory is accounted for before it is taken.
struct Growing {
    bytes: Vec<u8>,
    most: usize,
}

impl Growing {
    /// Room behind the bytes, to be cut to what was filled: never empty while there may be more.
    fn room(&mut self, held: &mut Reservation) -> Result<&mut [u8], Spent> {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len == capacity {
            let doubled = (capacity * 2).max(PIECE).min(self.most);
            held.grow(doubled - capacity)?;
            self.bytes.reserve_exact(doubled - len);
        }
        let end = self.bytes.capacity().min(self.most).min(len + PIECE);
        self.bytes.resize(end, 0);
        Ok(&mut self.bytes[len..])
    }

    fn finish(mut self, held: &mut Reservation) -> Bytes {
        let capacity = self.bytes.capacity();
        // Only a small body has that much too much: its first piece.
        if self.bytes.len() < capacity / 2 {
            self.bytes.shrink_to_fit();
            held.shrink(capacity - self.bytes.capacity());
        }
        Bytes::from(self.bytes)
    }
}

/// Ends when the sender has taken too long.
async fn falls_behind(received: &AtomicUsize, bounds: &Bounds) {
    let end = Instant::now() + bounds.timeout;
    let mut before = 0;
    loop {
        let look = (Instant::now() + bounds.window).min(end);
        sleep_until(look).await;
        let so_far = received.load(Ordering::Relaxed);
        if look == end || so_far - before < bounds.window_bytes {
            return;
        }
        before = so_far;
    }
}

#[cfg(test)]
mod tests;
