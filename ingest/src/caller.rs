//! Who posts, as far as the gateway knows.

use crate::auth::Scope;
use crate::tls::ClientCertificate;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Who is at the other end of a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The address that limits count.
    pub(crate) ip: IpAddr,
    /// The name of the key that was presented, or `token:` and the subject of the token. If none is asked for, the name in
    /// the client's certificate, if it has one.
    pub(crate) name: Option<Arc<str>>,
    /// What they may post.
    pub(crate) scope: Scope,
}

impl Caller {
    /// Whoever sent this head from this address, where everybody who gets through may post everything.
    pub(crate) fn of(ip: IpAddr, head: &Parts) -> Caller {
        let certificate = head.extensions.get::<ClientCertificate>();
        let name = certificate.map(|certificate| Arc::clone(&certificate.name));
        Caller { ip, name, scope: Scope::default() }
    }

    /// Somebody without a name, from this address.
    #[cfg(test)]
    pub(crate) fn anybody(ip: IpAddr) -> Caller {
        Caller { ip, name: None, scope: Scope::default() }
    }
}

/// Who is at the other end of the connection. Without a socket (in a test of the routes) everybody is the same.
fn peer(head: &Parts) -> IpAddr {
    match head.extensions.get::<ConnectInfo<SocketAddr>>() {
        Some(ConnectInfo(peer)) => peer.ip(),
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}
