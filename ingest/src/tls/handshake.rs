//! One handshake, and why it failed.

use super::client::ClientCertificate;
use super::material::TlsError;
use super::reload;
use super::section::Tls;
use rustls::{Error, InvalidMessage, ServerConfig};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// Makes encrypted connections of plain ones, always by the newest files.
#[derive(Clone)]
pub(crate) struct Acceptor {
    config: watch::Receiver<Arc<ServerConfig>>,
    _reloading: Arc<AbortOnDropHandle<()>>,
}

/// Why a handshake did not come to its end; a label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It took longer than a request head may.
    Timeout,
    /// The other end went away.
    Closed,
    /// Its first byte is none of TLS.
    NotTls,
    /// It has no certificate, and must.
    NoCertificate,
    /// Its certificate is not one of `client_ca`, or has expired.
    BadCertificate,
    /// It does not take the gateway's certificate, or gave up for a reason of its own.
    RefusedByClient,
    /// No version, cipher or protocol that both know.
    Incompatible,
    /// What it sends is not what TLS allows.
    Broken,
}

/// The first byte of a connection that begins with a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// What is read of somebody who was refused, and how long.
const DISCARD_BYTES: u64 = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);
const PLAIN_HTTP: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
                          content-length: 54\r\n\r\nThis port speaks TLS. Use a URL that begins https://.\n";

impl Acceptor {
    /// Reads the files, and looks after them from now on; `None` if TLS is off.
    pub(crate) fn open(tls: &Tls) -> Result<Option<Acceptor>, TlsError> {
        let Some(files) = tls.files() else { return Ok(None) };
        let (config, reloading) = reload::start(files)?;
        Ok(Some(Acceptor { config, _reloading: Arc::new(AbortOnDropHandle::new(reloading)) }))
    }

    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<ClientCertificate>), Failure> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return Err(Failure::Closed),
            Ok(_) if first[0] == HANDSHAKE => {}
            Ok(_) => {
                say_that_this_is_tls(stream, first[0]).await;
                return Err(Failure::NotTls);
            }
        }
        let config = Arc::clone(&self.config.borrow());
        match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => {
                let client = ClientCertificate::of(stream.get_ref().1);
                Ok((stream, client))
            }
            Err((err, stream)) => {
                part(stream).await;
                Err(Failure::of(&err))
            }
        }
    }
}

/// Every method of HTTP begins with a capital letter; to anything else there is nothing to say.
async fn say_that_this_is_tls(mut stream: TcpStream, first: u8) {
    if first.is_ascii_uppercase() && stream.write_all(PLAIN_HTTP.as_bytes()).await.is_ok() {
        part(stream).await;
    }
}

/// Closes so that the other end can read what it was told: closing on somebody who is still sending would reset it away.
/// Fails if the other end is gone, which is as good.
async fn part(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let (mut rest, mut nowhere) = (stream.take(DISCARD_BYTES), tokio::io::sink());
    let _ = timeout(DISCARD_TIME, tokio::io::copy(&mut rest, &mut nowhere)).await;
}

impl Failure {
    fn of(err: &io::Error) -> Failure {
        let Some(err) = err.get_ref().and_then(|source| source.downcast_ref::<Error>()) else {
            return Failure::Closed;
        };
        match err {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Failure::NotTls,
            Error::NoCertificatesPresented => Failure::NoCertificate,
            Error::InvalidCertificate(_) => Failure::BadCertificate,
            Error::AlertReceived(_) => Failure::RefusedByClient,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
            _ => Failure::Broken,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Closed => "closed",
            Failure::NotTls => "not_tls",
            Failure::NoCertificate => "no_client_certificate",
            Failure::BadCertificate => "bad_client_certificate",
            Failure::RefusedByClient => "refused_by_client",
            Failure::Incompatible => "incompatible",
            Failure::Broken => "broken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_says_its_own_length() {
        let (head, body) = PLAIN_HTTP.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{} {head}", body.len());
    }

    #[test]
    fn a_failure_is_told_by_its_cause() {
        let of = |err: Error| Failure::of(&io::Error::new(io::ErrorKind::InvalidData, err));
        assert_eq!(of(Error::NoCertificatesPresented), Failure::NoCertificate);
        assert_eq!(of(rustls::CertificateError::UnknownIssuer.into()), Failure::BadCertificate);
        assert_eq!(of(Error::AlertReceived(rustls::AlertDescription::UnknownCA)), Failure::RefusedByClient);
        assert_eq!(Failure::of(&io::ErrorKind::UnexpectedEof.into()), Failure::Closed);
    }
}
