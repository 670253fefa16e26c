//! One connection, from its first byte to its last.
//!
//! It must get to the point: a handshake, if there is one, and the first request head within `header_timeout`, and then
//! never longer than `idle_timeout` (twice that with HTTP/2) without a request under way. An HTTP/2 connection that answers
//! pings and asks for nothing would else stay for ever.

use crate::metrics;
use crate::tls::{self, ClientCertificate};
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http;
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::debug;

/// What a connection is served with.
pub(super) struct Connection {
    pub(super) http: Builder<TokioExecutor>,
    pub(super) router: Router,
    pub(super) tls: Option<tls::Acceptor>,
    pub(super) peer: SocketAddr,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    /// Finish the requests that are under way, and take no other.
    pub(super) closing: CancellationToken,
}

impl Connection {
    pub(super) async fn run(self, stream: TcpStream) {
        // Answers are small and awaited; a failure shows itself at the first write.
        let _ = stream.set_nodelay(true);
        let deadline = Instant::now() + self.header_timeout;
        // What comes next is in a box each time, for else every connection would have room for all of it at once.
        let Some(tls) = &self.tls else { return Box::pin(self.talk(stream, None, deadline)).await };
        let handshake = tokio::select! {
            handshake = timeout_at(deadline, Box::pin(tls.handshake(stream))) => handshake,
            () = self.closing.cancelled() => return,
        };
        match handshake.unwrap_or(Err(tls::Failure::Timeout)) {
            Ok((stream, client)) => Box::pin(self.talk(stream, client, deadline)).await,
            Err(failure) => {
                metrics::tls_failed(failure.as_str());
                debug!(peer = %self.peer, reason = failure.as_str(), "no TLS handshake");
            }
        }
    }

    /// HTTP, whichever version it is. The first request must have begun by `deadline`.
    async fn talk<S>(self, stream: S, client: Option<ClientCertificate>, deadline: Instant)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Connection { http, router, peer, idle_timeout, closing, .. } = self;
        let requests = Requests::default();
        let service = Peer { router, peer, client, requests: requests.clone() };
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
        let (mut is_closing, mut seen, mut look) = (false, 0, deadline);
        let outcome = loop {
            tokio::select! {
                outcome = connection.as_mut() => break outcome,
                () = closing.cancelled(), if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(look) => {
                    let begun = requests.begun();
                    let is_idle = begun == seen && !requests.under_way();
                    if is_idle && (is_closing || begun == 0) {
                        debug!(%peer, begun, "connection asks for nothing, cut off");
                        return;
                    }
                    if is_idle {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    (seen, look) = (begun, Instant::now() + idle_timeout);
                }
            }
        };
        if let Err(error) = outcome {
            debug!(%peer, error, "connection broke");
        }
    }
}

/// The requests of a connection. Each holds a clone as long as it is under way.
#[derive(Clone, Default)]
struct Requests(Arc<AtomicU64>);

impl Requests {
    fn begin(&self) -> Requests {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    fn begun(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The connection and its service have one each.
    fn under_way(&self) -> bool {
        Arc::strong_count(&self.0) > 2
    }
}

/// The router as one connection sees it: requests know their peer, and are counted.
#[derive(Clone)]
struct Peer {
    router: Router,
    peer: SocketAddr,
    client: Option<ClientCertificate>,
    requests: Requests,
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
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        extensions.insert(self.requests.begin());
        if let Some(client) = &self.client {
            extensions.insert(client.clone());
        }
        self.router.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_has_no_room_for_what_it_may_never_do() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let peer = listener.local_addr().unwrap();
        let connection = Connection {
            http: Builder::new(TokioExecutor::new()),
            router: Router::new(),
            tls: None,
            peer,
            header_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            closing: CancellationToken::new(),
        };
        let running = connection.run(TcpStream::connect(peer).await.unwrap());
        let bytes = size_of_val(&running);
        assert!(bytes < 2_048, "a handshake, HTTP over TLS and HTTP beside each other: {bytes} bytes");
    }
}
