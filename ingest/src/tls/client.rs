//! Who a client says it is, and an authority has confirmed.

use rustls::ServerConnection;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// A client certificate that was verified in the handshake; requests of its connection carry it as an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of its subject, else its first alternative name, else its serial number.
    pub name: Arc<str>,
}

impl ClientCertificate {
    /// What the other end of a connection has shown; `None` if it was not asked, or had none.
    pub(super) fn of(connection: &ServerConnection) -> Option<ClientCertificate> {
        let leaf = connection.peer_certificates()?.first()?;
        // Verified just now, so it can be read.
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
        Some(ClientCertificate { name: name(&certificate).into() })
    }
}

fn name(certificate: &X509Certificate<'_>) -> String {
    let common_name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    if let Some(name) = common_name.filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let texts = alternatives.filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    });
    // An authority gives each serial number once.
    texts.into_iter().next().unwrap_or_else(|| certificate.raw_serial_as_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};

    fn named(common_name: Option<&str>, alternatives: &[&str]) -> String {
        let alternatives: Vec<String> = alternatives.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(alternatives).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&[1, 171]));
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        name(&x509_parser::parse_x509_certificate(certificate.der()).unwrap().1)
    }

    #[test]
    fn a_certificate_is_called_by_its_subject_else_by_an_alternative_else_by_its_number() {
        assert_eq!(named(Some("sensor-é"), &["a.example"]), "sensor-é");
        assert_eq!(named(None, &["a.example", "b.example"]), "a.example");
        assert_eq!(named(Some(""), &["10.0.0.1", "a.example"]), "a.example");
        assert_eq!(named(None, &[]), "01:ab");
    }
}
