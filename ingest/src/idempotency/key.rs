//! Reads an `Idempotency-Key`, and makes of it and of all that it stands for a place in memory.
//!
//! The draft wants a string of a structured field, `"8e03978e-40d5"`. Devices that leave the quotes out mean the same.

use crate::caller::Caller;
use crate::decode::Form;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::borrow::Cow;
use std::hash::Hash;
use std::sync::LazyLock;
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_CHARS: usize = 256;

/// Where the answer of a key is remembered: a fingerprint of the key, the caller, the dataset and the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place(u64, u64);

/// A key together with a fingerprint of the body that came under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(super) place: Place,
    pub(super) body: (u64, u64),
}

/// What is wrong with the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadKey {
    /// There is more than one.
    Several,
    /// It is neither a string nor a token of so many characters.
    Form,
}

impl Place {
    pub(crate) fn is_named(headers: &HeaderMap) -> bool {
        headers.contains_key(HEADER)
    }

    /// The place that the head of a request names, if it does.
    pub(crate) fn of(head: &Parts, caller: &Caller, dataset: &str) -> Result<Option<Place>, BadKey> {
        let mut values = head.headers.get_all(HEADER).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(BadKey::Several);
        }
        let key = value.to_str().ok().and_then(unquoted).ok_or(BadKey::Form)?;
        let query = head.uri.query().unwrap_or_default();
        let (a, b) = fingerprint(|hasher| (key, caller.name.as_deref(), dataset, query).hash(hasher));
        Ok(Some(Place(a, b)))
    }

    /// The key, now that the body is here. Headers that are part of an event count as body.
    pub(crate) fn with_body(self, head: &Parts, form: Form, body: &Bytes) -> Key {
        let body = fingerprint(|hasher| {
            format!("{form:?}").hash(hasher);
            // It says whether the events are to be stored whole.
            head.uri.query().hash(hasher);
            for (name, value) in head.headers.iter().filter(|(name, _)| name.as_str().starts_with("ce-")) {
                (name.as_str(), value.as_bytes()).hash(hasher);
            }
            // It says what the data is, and is kept.
            if let (Form::CloudEventBinary, Some(value)) = (form, head.headers.get(CONTENT_TYPE)) {
                value.as_bytes().hash(hasher);
            }
            body.hash(hasher);
        });
        Key { place: self, body }
    }
}

/// The text of a structured field's string, or of a bare token.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let value = value.trim_ascii();
    let text = match value.strip_prefix('"') {
        Some(rest) => string(rest)?,
        None => Cow::Borrowed(value),
    };
    let visible = |c: char| c.is_ascii_graphic() || (c == ' ' && value.starts_with('"'));
    // Two headers that a proxy has joined are still two.
    let bare = !value.starts_with('"');
    let joined = bare && text.contains([',', ';', '"', '\\']);
    ((1..=MAX_CHARS).contains(&text.len()) && text.chars().all(visible) && !joined).then_some(text)
}

/// What stands before the closing quote. Parameters after it are allowed, and none is known.
fn string(rest: &str) -> Option<Cow<'_, str>> {
    let mut text = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let after = rest[at + 1..].trim_ascii_start();
                return (after.is_empty() || after.starts_with(';')).then_some(Cow::Owned(text));
            }
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => text.push(c),
                _ => return None,
            },
            c => text.push(c),
        }
    }
    None
}

/// 128 bits under a random key of this process: nobody can make two that are equal, and by chance it does not happen.
fn fingerprint(write: impl FnOnce(&mut SipHasher13)) -> (u64, u64) {
    static SECRET: LazyLock<(u64, u64)> = LazyLock::new(|| Uuid::new_v4().as_u64_pair());
    let mut hasher = SipHasher13::new_with_keys(SECRET.0, SECRET.1);
    write(&mut hasher);
    hasher.finish128().as_u64()
}

#[cfg(test)]
pub(super) fn test_key(place: u64, body: u64) -> Key {
    Key { place: Place(place, 0), body: (body, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::peer;
    use axum::http::Request;

    fn head(uri: &str, keys: &[&str]) -> Parts {
        let mut request = Request::post(uri);
        for key in keys {
            request = request.header("Idempotency-Key", *key);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn place(uri: &str, keys: &[&str]) -> Result<Option<Place>, BadKey> {
        let head = head(uri, keys);
        Place::of(&head, &Caller::anybody(peer(&head)), "events")
    }

    #[test]
    fn a_string_and_the_same_text_without_quotes_are_one_key() {
        let quoted = place("/", &["\"a-1\""]).unwrap().unwrap();
        for same in ["a-1", " a-1 ", "\"a-1\";v=2", "\"a-1\" ; v"] {
            assert_eq!(place("/", &[same]), Ok(Some(quoted)), "{same}");
        }
        assert_eq!(place("/", &[]), Ok(None));
        assert_eq!(unquoted(r#""a \"b\" \\""#).as_deref(), Some(r#"a "b" \"#));
    }

    #[test]
    fn refuses_what_is_no_key() {
        let long = "k".repeat(257);
        for bad in ["", "\"\"", "\"a", "a\"", "\"a\"b", "\"a\", \"b\"", "a,b", "a b", "é", "\"\\n\"", "\"\t\"", &long]
        {
            assert_eq!(place("/", &[bad]), Err(BadKey::Form), "{bad}");
        }
        assert!(place("/", &[&long[1..]]).unwrap().is_some());
        assert_eq!(place("/", &["a", "a"]), Err(BadKey::Several));
    }

    #[test]
    fn another_caller_another_dataset_or_another_query_is_another_place() {
        let here = place("/", &["a"]);
        let named = head("/", &["a"]);
        let caller = |name: &str| Caller { name: Some(name.into()), ..Caller::anybody(peer(&named)) };
        let of = |name: &str| Place::of(&named, &caller(name), "events");
        assert_eq!(of("x"), of("x"));
        assert!(of("x") != of("y") && of("x") != here);
        assert_ne!(here, place("/?atomic=true", &["a"]));
        let elsewhere = head("/", &["a"]);
        assert_ne!(here, Place::of(&elsewhere, &Caller::anybody(peer(&elsewhere)), "heartbeats"));
    }

    #[test]
    fn the_fingerprint_is_of_the_body_its_form_and_its_event_headers() {
        let place = place("/", &["a"]).unwrap().unwrap();
        let body = Bytes::from_static(b"{}");
        let plain = head("/", &[]);
        let key = place.with_body(&plain, Form::Json, &body);
        assert_eq!(key, place.with_body(&head("/", &["other"]), Form::Json, &body));
        assert_ne!(key, place.with_body(&plain, Form::NdJson, &body));
        assert_ne!(key, place.with_body(&plain, Form::Json, &Bytes::from_static(b"{} ")));
        let mut event = head("/", &[]);
        event.headers.insert("ce-id", "1".parse().unwrap());
        assert_ne!(key, place.with_body(&event, Form::Json, &body));

        let mut of = |form, content_type: &str| {
            event.headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
            place.with_body(&event, form, &body)
        };
        let [json, text] = ["application/json", "text/plain"].map(|kind| of(Form::CloudEventBinary, kind));
        assert_ne!(json, text, "the same bytes are other data");
        let [plain, upper] = ["application/json", "Application/JSON"].map(|kind| of(Form::Json, kind));
        assert_eq!(plain, upper);
    }
}
