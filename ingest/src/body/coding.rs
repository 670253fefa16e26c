//! Which compression a body has, by its headers.

use crate::decode::{Unsupported, shorten};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;

/// What a body has to be taken out of first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Nothing: it is sent as it is.
    Identity,
    Gzip,
    Zstd,
}

/// The codings that are understood, as answers name them.
pub(crate) const CODINGS: &str = "gzip, zstd, identity";

impl Coding {
    /// The coding that the headers announce. Several on top of each other are refused: no device has a reason for that,
    /// and each would multiply what a small body can become.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Coding, Unsupported> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(first) = values.next() else { return Ok(Coding::Identity) };
        let mut found = String::from_utf8_lossy(first.as_bytes()).into_owned();
        for value in values {
            found = format!("{found}, {}", String::from_utf8_lossy(value.as_bytes()));
        }
        let name = found.trim();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if name.is_empty() || is("identity") {
            return Ok(Coding::Identity);
        }
        // HTTP asks that the old name means the same.
        if is("gzip") || is("x-gzip") {
            return Ok(Coding::Gzip);
        }
        if is("zstd") {
            return Ok(Coding::Zstd);
        }
        Err(Unsupported::ContentEncoding(shorten(&found)))
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn coding(values: &[&'static str]) -> Result<Coding, Unsupported> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::of(&headers)
    }

    #[test]
    fn one_coding_is_understood_in_any_spelling() {
        assert_eq!(coding(&[]), Ok(Coding::Identity));
        for (name, known) in [
            ("identity", Coding::Identity),
            ("", Coding::Identity),
            ("gzip", Coding::Gzip),
            (" GZip ", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("ZSTD", Coding::Zstd),
        ] {
            assert_eq!(coding(&[name]), Ok(known), "{name}");
        }
    }

    #[test]
    fn other_codings_and_several_at_once_are_refused_by_name() {
        for name in ["deflate", "br", "gzip, gzip", "identity, zstd", "gzipped", "*"] {
            assert_eq!(coding(&[name]), Err(Unsupported::ContentEncoding(name.into())), "{name}");
        }
        assert_eq!(coding(&["gzip", "zstd"]), Err(Unsupported::ContentEncoding("gzip, zstd".into())));
    }
}
