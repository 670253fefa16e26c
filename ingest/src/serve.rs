//! Takes connections and answers them until told to stop.
//!
//! HTTP/1.1 with keep-alive, and HTTP/2 for clients that start with it (no TLS, so no negotiation). A connection that
//! does not get to the point is closed: the first request head within `header_timeout`, each further one within
//! `idle_timeout`. At most `max_connections` are open, so memory is bounded before any request is read.
//!
//! At shutdown the listener is closed first; requests under way are finished, idle connections closed, and what is still
//! open after `drain_timeout` is cut off. A request that is cut off has not been answered, so nothing was promised.

use crate::config::{Config, Http};
use crate::metrics;
use crate::routes::{Deps, Gateway, routes};
use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http;
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;
use tracing::{debug, info, warn};

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
    let server = Server::new(&config.http, routes(Arc::clone(&gateway)));
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
                Ok((stream, peer, permit)) => {
                    connections.spawn(server.connection(stream, peer, permit));
                }
                Err(err) => pause_after(&err).await,
            },
        }
    }
    drop(listener);
    server.drain(connections, config.http.drain_timeout).await;
    if let Some(spill) = &gateway.spill {
        spill.close().await;
    }
    Ok(())
}

struct Server {
    builder: Builder<TokioExecutor>,
    router: Router,
    room: Arc<Semaphore>,
    header_timeout: Duration,
    graceful: GracefulShutdown,
}

impl Server {
    fn new(config: &Http, router: Router) -> Server {
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
            header_timeout: config.header_timeout,
            graceful: GracefulShutdown::new(),
        }
    }

    /// The next connection, once there is room for it.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok((stream, peer, permit))
    }

    /// One connection from its first byte to its last.
    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        room: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + use<> {
        // Answers are small and awaited; a failure shows itself at the first write.
        let _ = stream.set_nodelay(true);
        let begun = Arc::new(AtomicBool::new(false));
        let service = Peer { router: self.router.clone(), peer, begun: Arc::clone(&begun) };
        let connection = self.builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = self.graceful.watch(connection.into_owned());
        let header_timeout = self.header_timeout;
        async move {
            let _room = room;
            tokio::pin!(connection);
            let outcome = tokio::select! {
                outcome = &mut connection => outcome,
                () = tokio::time::sleep(header_timeout) => {
                    if !begun.load(Ordering::Relaxed) {
                        debug!(%peer, "connection sent no request in time");
                        return;
                    }
                    connection.await
                }
            };
            if let Err(error) = outcome {
                debug!(%peer, error, "connection broke");
            }
        }
    }

    async fn drain(self, mut connections: JoinSet<()>, timeout: Duration) {
        let open = connections.len();
        let finish = async {
            self.graceful.shutdown().await;
            while connections.join_next().await.is_some() {}
        };
        if tokio::time::timeout(timeout, finish).await.is_ok() {
            info!(connections = open, "gateway drained");
        } else {
            warn!(connections = connections.len(), "connections cut off, their requests are not answered");
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

/// The router as one connection sees it: it knows its peer, and notes that a request has begun.
#[derive(Clone)]
struct Peer {
    router: Router,
    peer: SocketAddr,
    begun: Arc<AtomicBool>,
}

impl<B> Service<http::Request<B>> for Peer
where
    Router: Service<http::Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = <Router as Service<http::Request<B>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.begun.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.router.call(request)
    }
}
