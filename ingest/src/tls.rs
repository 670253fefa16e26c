//! Encrypts connections: the section `[tls]`.
//!
//! A handshake happens in the connection's own task and within the time that the first request head has, so neither many
//! nor slow ones hold up others. Who does not speak TLS is told so in plain HTTP and closed.
//!
//! The files are looked at every [`EVERY`](crate::settled::EVERY); new ones serve the connections that come after, and those that are
//! open go on with theirs. Files that cannot be used change nothing but the log and a metric. Sessions are remembered
//! by the configuration that made them, so nobody resumes one to get around a new `client_ca`.

mod section;
mod material;
mod handshake;
mod client;
mod reload;

pub use client::ClientCertificate;
pub(crate) use handshake::{Acceptor, Failure};
pub use material::TlsError;
pub use section::{ClientAuth, Tls};
