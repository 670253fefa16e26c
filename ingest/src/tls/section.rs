//! What an operator can set of it.

use super::material::{Material, TlsError};
use crate::config::ConfigError;
use serde::Deserialize;
use std::path::PathBuf;

/// The section `[tls]`. Without `cert` and `key` the gateway speaks plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate of the gateway, followed by what leads from it to its authority, in PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key: Option<PathBuf>,
    /// The authorities that certificates of clients must come from, in PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether a client may come without a certificate. By default, with `client_ca` it must have one.
    pub client_auth: Option<ClientAuth>,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// Who has none is not let in.
    Required,
    /// Who has none stays nameless; who shows a wrong one is not let in.
    Optional,
}

/// The files that are read, and read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<(PathBuf, ClientAuth)>,
}

impl Tls {
    /// Whether connections are encrypted.
    pub fn is_on(&self) -> bool {
        self.files().is_some()
    }

    /// Whether everybody who gets through has shown a certificate of `client_ca`.
    pub fn requires_client_certificate(&self) -> bool {
        let client_ca = self.files().and_then(|files| files.client_ca);
        client_ca.is_some_and(|(_, client_auth)| client_auth == ClientAuth::Required)
    }

    /// Reads the files once, so that a mistake in them is found before anything is started.
    pub fn try_out(&self) -> Result<(), TlsError> {
        match self.files() {
            Some(files) => Material::read(&files)?.load(&files).map(drop),
            None => Ok(()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |field, problem| Err(ConfigError { field, problem });
        match (&self.cert, &self.key, &self.client_ca, &self.client_auth) {
            (Some(_), None, ..) => invalid("tls.key", "is missing: give the private key of `tls.cert`"),
            (None, Some(_), ..) => invalid("tls.cert", "is missing: give the certificate of `tls.key`"),
            (None, None, Some(_), _) => invalid("tls.client_ca", "needs `tls.cert` and `tls.key` beside it"),
            (_, _, None, Some(_)) => invalid("tls.client_auth", "needs `tls.client_ca` beside it"),
            _ => Ok(()),
        }
    }

    pub(super) fn files(&self) -> Option<Files> {
        let (cert, key) = (self.cert.clone()?, self.key.clone()?);
        let client_auth = self.client_auth.unwrap_or(ClientAuth::Required);
        Some(Files { cert, key, client_ca: self.client_ca.clone().map(|path| (path, client_auth)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(json: &str) -> Tls {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_client_needs_a_certificate_once_there_is_an_authority_unless_told_otherwise() {
        assert_eq!((section("{}").is_on(), section("{}").requires_client_certificate()), (false, false));
        let tls = section(r#"{"cert":"c","key":"k"}"#);
        assert_eq!((tls.is_on(), tls.requires_client_certificate()), (true, false));
        assert!(section(r#"{"cert":"c","key":"k","client_ca":"a"}"#).requires_client_certificate());
        let optional = section(r#"{"cert":"c","key":"k","client_ca":"a","client_auth":"optional"}"#);
        assert!(!optional.requires_client_certificate());
    }

    #[test]
    fn refuses_halves() {
        for (json, field) in [
            (r#"{"cert":"c"}"#, "tls.key"),
            (r#"{"key":"k"}"#, "tls.cert"),
            (r#"{"client_ca":"a"}"#, "tls.client_ca"),
            (r#"{"cert":"c","key":"k","client_auth":"required"}"#, "tls.client_auth"),
        ] {
            assert_eq!(section(json).check().unwrap_err().field, field, "{json}");
        }
        assert!(serde_json::from_str::<Tls>(r#"{"client_auth":"maybe"}"#).is_err());
    }
}
