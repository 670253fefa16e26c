//! What a request presents: an API key or a token, or neither.

use super::secret::PREFIX;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use std::fmt;

/// Another place for an API key, for clients that cannot set `Authorization`.
const API_KEY: &str = "x-api-key";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credentials<'a> {
    Missing,
    /// Two of them, or no text.
    Unreadable,
    Key(&'a str),
    Token(&'a str),
}

impl<'a> Credentials<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Credentials<'a> {
        let mut keys = headers.get_all(API_KEY).iter().map(|value| text(value).map(Credentials::Key));
        let mut bearers = headers.get_all(AUTHORIZATION).iter().filter_map(bearer);
        match (keys.next().or_else(|| bearers.next()), keys.next().or_else(|| bearers.next())) {
            (None, _) => Credentials::Missing,
            (Some(Some(credentials)), None) => credentials,
            // Which of two is meant is not for us to choose.
            _ => Credentials::Unreadable,
        }
    }

    /// The text that was sent.
    pub(crate) fn presented(self) -> &'a str {
        match self {
            Credentials::Key(text) | Credentials::Token(text) => text,
            Credentials::Missing | Credentials::Unreadable => "",
        }
    }
}

/// Without what was sent.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Missing => "Missing",
            Credentials::Unreadable => "Unreadable",
            Credentials::Key(_) => "Key(…)",
            Credentials::Token(_) => "Token(…)",
        })
    }
}

/// `Bearer …`; `None` if it is of another scheme, which may be for a proxy.
fn bearer(value: &HeaderValue) -> Option<Option<Credentials<'_>>> {
    let Some(text) = text(value) else { return Some(None) };
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    scheme.eq_ignore_ascii_case("bearer").then_some(match token.starts_with(PREFIX) {
        true => Some(Credentials::Key(token)),
        false => Some(Credentials::Token(token)),
    })
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(headers: &[(&'static str, &str)], expected: Credentials<'_>) {
        let value = |value: &str| HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let headers = headers.iter().map(|(name, text)| (name.parse().unwrap(), value(text))).collect();
        assert_eq!(Credentials::of(&headers), expected);
    }

    #[test]
    fn a_key_may_stand_in_two_places_and_a_token_in_one() {
        is(&[("authorization", "Bearer lh_a_b")], Credentials::Key("lh_a_b"));
        is(&[("authorization", "bearer  lh_a_b")], Credentials::Key("lh_a_b"));
        is(&[("authorization", "Bearer ey.J.x")], Credentials::Token("ey.J.x"));
        is(&[("x-api-key", "lh_a_b")], Credentials::Key("lh_a_b"));
        is(&[("x-api-key", "ey.J.x")], Credentials::Key("ey.J.x"));
        is(&[("x-api-key", "lh_a_b"), ("authorization", "Basic dXNlcg==")], Credentials::Key("lh_a_b"));
    }

    #[test]
    fn none_is_missing_and_two_are_refused_whichever_would_be_good() {
        is(&[], Credentials::Missing);
        is(&[("authorization", "Basic dXNlcg==")], Credentials::Missing);
        is(&[("authorization", "lh_a_b")], Credentials::Missing);
        is(&[("authorization", "Bearer lh_a_b"), ("x-api-key", "lh_a_b")], Credentials::Unreadable);
        is(&[("authorization", "Bearer lh_a_b"), ("authorization", "Bearer lh_c_d")], Credentials::Unreadable);
        is(&[("x-api-key", "lh_\u{e9}_b")], Credentials::Unreadable);
    }
}
