//! Takes connections and answers them until told to stop.
//!
//! HTTP/1.1 with keep-alive, and HTTP/2: negotiated by TLS ([`crate::tls`]), or without TLS for clients that start with
//! it. A connection that does not get to the point is closed ([`connection`]). At most `max_connections` are open, so
//! memory is bounded before any request is read.
//!
//! At shutdown the listener is closed first; requests under way are finished, idle connections closed, and what is still
//! open after `drain_timeout` is cut off. A request that is cut off has not been answered, so nothing was promised.

mod connection;

use crate::config::{Config, Http};
use crate::metrics;
use crate::routes::{Deps, Gateway, routes};
use crate::tls;
use anyhow::Context;
use axum::Router;
use connection::Connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{info, warn};

/// How often states are published as metrics.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How long to wait when the machine has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A request head and, over HTTP/1, what is read of a body at once.
const READ_BUFFER: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Serves the gateway on `listener` until `shutdown`, then drains and returns.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    deps: Deps,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    config.check().context("check the settings of the gateway")?;
    let address = listener.local_addr().context("read the address of the gateway")?;
    let gateway = Gateway::new(&config, deps);
    let tls = tls::Acceptor::open(&config.tls).context("[tls]")?;
    let server = Server::new(&config.http, tls, routes(Arc::clone(&gateway)));
    let mut connections = JoinSet::new();
    info!(%address, "gateway listens");

    let _watching = gateway.door.as_ref().map(|door| {
        let auth = Arc::clone(door.auth());
        AbortOnDropHandle::new(tokio::spawn(async move { auth.watch().await }))
    });
    let mut measure = tokio::time::interval(MEASURE_EVERY);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = measure.tick() => {
                gateway.measure();
                metrics::connections(connections.len());
            }
            Some(_) = connections.join_next() => {}
            accepted = server.accept(&listener) => match accepted {
                Ok((stream, peer, room)) => {
                    let connection = server.connection(peer).run(stream);
                    connections.spawn(async move {
                        connection.await;
                        drop(room);
                    });
                }
                Err(err) => pause_after(&err).await,
            },
        }
    }
    drop(listener);
    server.drain(connections, &gateway.keyed, config.http.drain_timeout).await;
    if let Some(spill) = &gateway.spill {
        spill.close().await;
    }
    Ok(())
}

struct Server {
    builder: Builder<TokioExecutor>,
    router: Router,
    room: Arc<Semaphore>,
    tls: Option<tls::Acceptor>,
    header_timeout: Duration,
    idle_timeout: Duration,
    closing: CancellationToken,
}

impl Server {
    fn new(config: &Http, tls: Option<tls::Acceptor>, router: Router) -> Server {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.idle_timeout)
            .max_buf_size(READ_BUFFER)
            // A sender that closes its half after the body still wants the answer; and one that is gone does not stop
            // the log half way.
            .half_close(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(config.idle_timeout)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(READ_BUFFER as u32);
        Server {
            builder,
            router,
            room: Arc::new(Semaphore::new(config.max_connections as usize)),
            tls,
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            closing: CancellationToken::new(),
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, permit))
    }

    fn connection(&self, peer: SocketAddr) -> Connection {
        Connection {
            http: self.builder.clone(),
            router: self.router.clone(),
            tls: self.tls.clone(),
            peer,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            closing: self.closing.clone(),
        }
    }

    async fn drain(self, mut connections: JoinSet<()>, keyed: &TaskTracker, timeout: Duration) {
        let open = connections.len();
        let finish = async {
            self.closing.cancel();
            while connections.join_next().await.is_some() {}
            // Those whose clients are gone: the log is there until the gateway has ended.
            keyed.close();
            keyed.wait().await;
        };
        if tokio::time::timeout(timeout, finish).await.is_ok() {
            info!(connections = open, "gateway drained");
        } else {
            let (open, keyed) = (connections.len(), keyed.len());
            warn!(connections = open, keyed, "connections cut off, their requests are not answered");
            connections.shutdown().await;
        }
    }
}

/// Failures of `accept` are either of one connection, or mean that the machine is out of something.
async fn pause_after(err: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(err.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        warn!(error = %err, "cannot take another connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
