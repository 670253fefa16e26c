//! From files to what a handshake needs, and every way in which files can be wrong.

use super::section::{ClientAuth, Files};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What clients may choose from, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why files of `[tls]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a list of certificates in PEM")]
    NoCertificate { path: PathBuf },
    #[error("{path} is not a private key in PEM")]
    NoKey { path: PathBuf },
    #[error("{cert} and {key} do not make a pair that can be used")]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("the certificates in {path} are not those of authorities")]
    Authorities { path: PathBuf, source: rustls::server::VerifierBuilderError },
}

/// What the files hold, to the byte. It has a private key in it and cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What connections are served with.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// When the certificate expires, in seconds since the epoch.
    pub(super) expires: i64,
}

impl Material {
    pub(super) fn read(files: &Files) -> Result<Material, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let client_ca = files.client_ca.as_ref().map(|(path, _)| read(path)).transpose()?;
        Ok(Material { cert: read(&files.cert)?, key: read(&files.key)?, client_ca })
    }

    /// Checks all of it and puts it together.
    pub(super) fn load(&self, files: &Files) -> Result<Loaded, TlsError> {
        let Files { cert, key, .. } = files;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&self.cert, cert)?;
        let expires = expiry(&chain[0]).ok_or_else(|| TlsError::NoCertificate { path: cert.clone() })?;
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| TlsError::NoKey { path: key.clone() })?;

        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let pair = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some((path, client_auth)), Some(pem)) => {
                builder.with_client_cert_verifier(verifier(path, pem, *client_auth, provider)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, private).map_err(pair)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Loaded { config: Arc::new(config), expires })
    }
}

fn verifier(
    path: &Path,
    pem: &[u8],
    client_auth: ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem, path)? {
        roots.add(authority).map_err(|_| TlsError::NoCertificate { path: path.to_owned() })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = match client_auth {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    };
    verifier.build().map_err(|source| TlsError::Authorities { path: path.to_owned(), source })
}

/// All certificates of a file, at least one.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    match found.is_empty() {
        true => Err(TlsError::NoCertificate { path: path.to_owned() }),
        false => Ok(found),
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
