//! A gateway on a thread of its own, so that its CPU time can be told from that of the clients, and clients on another.

use super::figures::{Latencies, thread_cpu};
use super::fleet::{Fleet, Pace};
use super::post::Posts;
use anyhow::Context;
use eventlog::Log;
use lake::dataset::Dataset;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use url::Url;

/// A gateway that takes the events of one dataset.
pub struct Served {
    pub address: SocketAddr,
    handle: Handle,
    stop: CancellationToken,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Served {
    pub async fn start(log: Arc<dyn Log>, dataset: &Dataset) -> anyhow::Result<Served> {
        let runtime = single_thread()?;
        let (stop, deps) = (CancellationToken::new(), ingest::Deps::new(log, vec![dataset.clone()]));
        let (handle, stopping) = (runtime.handle().clone(), stop.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let serve = async move {
            ingest::serve(TcpListener::from_std(listener)?, ingest::Config::default(), deps, stopping).await?;
            anyhow::Ok(())
        };
        let thread = std::thread::Builder::new().name("gateway".into()).spawn(move || runtime.block_on(serve))?;
        Ok(Served { address, handle, stop, thread })
    }

    /// CPU time of the gateway's thread.
    pub async fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(self.handle.spawn(async { thread_cpu() }).await?)
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        ended.map_err(|_| anyhow::anyhow!("the gateway panicked"))?
    }
}

/// A runtime of this thread alone, so that its CPU time can be told.
pub fn single_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start a thread")
}

/// Clients that post for a while.
#[derive(Debug, Clone)]
pub struct Clients {
    pub address: SocketAddr,
    pub dataset: String,
    pub connections: usize,
    /// Events of one request.
    pub batch: usize,
    /// Events a second over all connections; `None`: the next request follows the answer.
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// What became of it.
#[derive(Debug)]
pub struct Posted {
    pub events: u64,
    /// CPU time of the clients.
    pub cpu: Duration,
    pub wall: Duration,
    /// Of a request, from the moment at which it was due to its answer.
    pub latencies: Latencies,
}

impl Clients {
    /// Posts on a thread of its own. Fails if anything but 202 is answered.
    pub async fn post(self) -> anyhow::Result<Posted> {
        tokio::task::spawn_blocking(move || {
            let cpu = thread_cpu();
            let posted = single_thread()?.block_on(self.post_all());
            posted.map(|posted| Posted { cpu: thread_cpu() - cpu, ..posted })
        })
        .await?
    }

    async fn post_all(self) -> anyhow::Result<Posted> {
        let to: Url = format!("http://{}/v1/events/{}", self.address, self.dataset).parse()?;
        let posts = Arc::new(Posts::new(&to, None, self.batch)?);
        let pace = match self.rate {
            Some(rate) => Pace::Steady(rate / self.batch as f64, self.duration),
            None => Pace::AfterTheAnswer(self.duration),
        };
        let seen = Fleet::open(self.address, posts, self.connections).await?.post(pace).await?;
        anyhow::ensure!(seen.accepted() == seen.requests(), "the gateway does not accept all: {:?}", seen.answers);
        let events = seen.accepted() * self.batch as u64;
        Ok(Posted { events, cpu: Duration::ZERO, wall: seen.wall, latencies: seen.latencies })
    }
}
