//! Who posts, as far as the gateway knows.

use crate::proxies::Proxies;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Who is at the other end of a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The address that limits count.
    pub(crate) ip: IpAddr,
    /// What the key is called that it showed.
    pub(crate) name: Option<Arc<str>>,
}

impl Caller {
    /// Whoever sent this head.
    pub(crate) fn of(head: &Parts, proxies: &Proxies) -> Caller {
        Caller { ip: proxies.client(peer(head), &head.headers), name: None }
    }
}

/// Who is at the other end of the connection. Without a socket (in a test of the routes) everybody is the same.
fn peer(head: &Parts) -> IpAddr {
    match head.extensions.get::<ConnectInfo<SocketAddr>>() {
        Some(ConnectInfo(peer)) => peer.ip(),
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}
