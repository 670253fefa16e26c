//! Simulated devices, each on a connection of its own, and what they saw.
//!
//! The model is open: a request is due when its time has come, whether or not the one before was answered, and its
//! latency counts from then. A device whose answer is late sends its next request late, and the wait counts (no
//! coordinated omission). Only the search for the most that the gateway takes is closed: there the next request follows
//! the answer.

use super::figures::Latencies;
use super::post::{Answer, Posts, read_answer};
use anyhow::Context;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A device waits so long for an answer: longer than the gateway waits for its log.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that are opened at the same time: as many as a listener's queue takes.
const OPENED_AT_ONCE: usize = 128;

/// When requests are due.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// The next one when the last is answered, for so long.
    AfterTheAnswer(Duration),
    /// So many requests a second over all devices, which take turns, for so long.
    Steady(f64, Duration),
    /// One of every device, all at once.
    AtOnce,
}

/// Devices with open connections.
pub struct Fleet {
    address: SocketAddr,
    posts: Arc<Posts>,
    devices: Vec<Device>,
}

/// What the devices saw in one step.
#[derive(Debug)]
pub struct Seen {
    pub wall: Duration,
    /// Requests by the status of their answer; 0: none came.
    pub answers: BTreeMap<u16, u64>,
    /// Of all requests that were answered 202, from the moment at which each was due.
    pub latencies: Latencies,
    /// The same by the second in which they were due.
    pub seconds: Vec<Latencies>,
}

struct Device {
    /// `None`: to be opened before the next request.
    stream: Option<TcpStream>,
    unread: BytesMut,
    request: Vec<u8>,
}

/// When a request was due, how long its answer took, and the answer; `None` if none came.
type Sent = (Duration, Duration, Option<Answer>);

impl Fleet {
    /// Opens a connection for each of `devices`.
    pub async fn open(address: SocketAddr, posts: Arc<Posts>, devices: usize) -> anyhow::Result<Fleet> {
        let mut open = Vec::with_capacity(devices);
        while open.len() < devices {
            let next = (0..OPENED_AT_ONCE.min(devices - open.len())).map(|_| Device::open(address));
            open.extend(futures::future::try_join_all(next).await?);
        }
        Ok(Fleet { address, posts, devices: open })
    }

    /// Lets all devices post as `pace` says.
    pub async fn post(&mut self, pace: Pace) -> anyhow::Result<Seen> {
        let (count, began) = (self.devices.len(), Instant::now());
        let mut working = JoinSet::new();
        for (number, mut device) in self.devices.drain(..).enumerate() {
            let (address, posts) = (self.address, Arc::clone(&self.posts));
            working.spawn(async move {
                let sent = device.post_all(address, &posts, pace, (number, count), began).await;
                (device, sent)
            });
        }
        let mut seen = Seen::new();
        while let Some(done) = working.join_next().await {
            let (device, sent) = done.context("simulate a device")?;
            self.devices.push(device);
            sent.into_iter().for_each(|sent| seen.add(sent));
        }
        seen.wall = began.elapsed();
        Ok(seen)
    }
}

impl Device {
    async fn open(address: SocketAddr) -> anyhow::Result<Device> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Device { stream: Some(stream), unread: BytesMut::new(), request: Vec::new() })
    }

    async fn post_all(
        &mut self,
        address: SocketAddr,
        posts: &Posts,
        pace: Pace,
        (number, count): (usize, usize),
        began: Instant,
    ) -> Vec<Sent> {
        let mut sent = Vec::new();
        for turn in 0.. {
            let due = match pace {
                Pace::AfterTheAnswer(_) => began.elapsed(),
                Pace::Steady(rate, _) => Duration::from_secs_f64((turn * count + number) as f64 / rate),
                Pace::AtOnce => Duration::ZERO,
            };
            let over = match pace {
                Pace::AfterTheAnswer(lasts) | Pace::Steady(_, lasts) => due >= lasts,
                Pace::AtOnce => turn > 0,
            };
            if over {
                break;
            }
            // A timer counts in whole milliseconds, so asking it for no time at all would cost one.
            if began.elapsed() < due {
                tokio::time::sleep_until((began + due).into()).await;
            }
            posts.write(&mut self.request);
            let answer = tokio::time::timeout(PATIENCE, self.exchange(address)).await;
            let answer = answer.ok().and_then(Result::ok);
            if answer.is_none_or(|answer| answer.closes) {
                self.stream = None;
            }
            sent.push((due, began.elapsed().saturating_sub(due), answer));
        }
        sent
    }

    async fn exchange(&mut self, address: SocketAddr) -> anyhow::Result<Answer> {
        if self.stream.is_none() {
            *self = Device { request: std::mem::take(&mut self.request), ..Device::open(address).await? };
        }
        let stream = self.stream.as_mut().context("no connection")?;
        stream.write_all(&self.request).await.context("post to the gateway")?;
        read_answer(stream, &mut self.unread).await
    }
}

impl Seen {
    fn new() -> Seen {
        Seen { wall: Duration::ZERO, answers: BTreeMap::new(), latencies: Latencies::new(), seconds: Vec::new() }
    }

    fn add(&mut self, (due, latency, answer): Sent) {
        let status = answer.map_or(0, |answer| answer.status);
        *self.answers.entry(status).or_default() += 1;
        if status != 202 {
            return;
        }
        self.latencies.add(latency);
        let second = due.as_secs() as usize;
        if self.seconds.len() <= second {
            self.seconds.resize_with(second + 1, Latencies::new);
        }
        self.seconds[second].add(latency);
    }

    pub fn accepted(&self) -> u64 {
        self.answers.get(&202).copied().unwrap_or_default()
    }

    pub fn requests(&self) -> u64 {
        self.answers.values().sum()
    }
}
