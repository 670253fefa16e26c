//! The file of API keys: hashes, scopes, times. `lakehose keys` writes it.
//!
//! ```toml
//! [[keys]]
//! id = "3f9c2a71d0b4"
//! name = "greenhouse"
//! sha256 = "…"                              # of the whole key
//! datasets = ["heartbeats"]                 # absent: all
//! device_prefix = "greenhouse-"             # or device = "sensor-1"; absent: all
//! created = "2026-11-22T08:00:00Z"
//! expires = "2027-11-22T08:00:00Z"          # absent: never
//! revoked = "2026-12-01T08:00:00Z"          # absent: it is not
//! ```
//!
//! A file that is not understood to the last field is refused whole: a restriction that is overlooked would be a hole.

use super::failure::Reason;
use super::scope::{Devices, Scope};
use super::secret::{Hash, PREFIX, id_of};
use lake::event::parse_time;
use serde::{Deserialize, Deserializer, de};
use std::collections::HashMap;
use std::sync::Arc;
use toml::Spanned;
use toml::value::Datetime;

/// One key, as it is stored. Times are microseconds since the epoch.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: String,
    pub name: Arc<str>,
    pub scope: Scope,
    pub created: Option<i64>,
    pub expires: Option<i64>,
    pub revoked: Option<i64>,
    hash: Hash,
}

/// What a key is good for at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    Expired,
    Revoked,
}

impl Key {
    pub fn state(&self, now: i64) -> State {
        match (self.revoked, self.expires) {
            (Some(_), _) => State::Revoked,
            (None, Some(expires)) if expires <= now => State::Expired,
            _ => State::Active,
        }
    }
}

/// Longest key that is looked at.
const MAX_BYTES: usize = 256;

/// All keys of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    by_id: HashMap<String, Key>,
}

impl Keys {
    pub(crate) fn of(keys: Vec<Key>) -> Result<Keys, Mistake> {
        let mut by_id = HashMap::with_capacity(keys.len());
        for key in keys {
            if let Some(other) = by_id.insert(key.id.clone(), key) {
                return Err(Mistake { line: None, what: format!("there are two keys of the id {}", other.id) });
            }
        }
        Ok(Keys { by_id })
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The key that is presented, if it is good `now`. What an id that nobody has costs is what one costs that somebody
    /// has: a hash, a look-up, and a comparison in constant time.
    pub(crate) fn find(&self, presented: &str, now: i64) -> Result<&Key, (Reason, Option<&Key>)> {
        if presented.len() > MAX_BYTES {
            return Err((Reason::UnknownKey, None));
        }
        let hash = Hash::of(presented);
        let key = self.by_id.get(id_of(presented).unwrap_or_default());
        let is_it = hash.same(key.map_or(&Hash::NOBODY, |key| &key.hash));
        match key {
            None => Err((Reason::UnknownKey, None)),
            Some(key) if !bool::from(is_it) => Err((Reason::WrongSecret, Some(key))),
            Some(key) => match key.state(now) {
                State::Active => Ok(key),
                State::Expired => Err((Reason::Expired, Some(key))),
                State::Revoked => Err((Reason::Revoked, Some(key))),
            },
        }
    }
}

/// Why a file of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct Mistake {
    pub line: Option<usize>,
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    name: String,
    sha256: Hash,
    datasets: Option<Arc<[String]>>,
    device: Option<String>,
    device_prefix: Option<String>,
    #[serde(default, deserialize_with = "time")]
    created: Option<i64>,
    #[serde(default, deserialize_with = "time")]
    expires: Option<i64>,
    #[serde(default, deserialize_with = "time")]
    revoked: Option<i64>,
}

/// Reads the text of a file of keys.
pub fn parse(text: &str) -> Result<Vec<Key>, Mistake> {
    let mistake = |at: usize, what: &str| Mistake {
        line: Some(text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1),
        what: without_secrets(what),
    };
    let file: File =
        toml::from_str(text).map_err(|err| mistake(err.span().map_or(0, |span| span.start), err.message()))?;
    let mut keys: Vec<Key> = Vec::with_capacity(file.keys.len());
    let mut seen = HashMap::with_capacity(file.keys.len());
    for entry in file.keys {
        let at = entry.span().start;
        let key = entry.into_inner().key().map_err(|what| mistake(at, &what))?;
        if seen.insert(key.id.clone(), ()).is_some() {
            return Err(mistake(at, &format!("there is another key of the id {}", key.id)));
        }
        keys.push(key);
    }
    Ok(keys)
}

impl Entry {
    fn key(self) -> Result<Key, String> {
        let Entry { id, name, sha256, datasets, device, device_prefix, created, expires, revoked } = self;
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("id: expected letters and digits".to_owned());
        }
        check_name(&name)?;
        if [&device, &device_prefix].into_iter().flatten().any(String::is_empty) {
            return Err(format!("key {name}: an empty device or device_prefix: leave it out to allow every device"));
        }
        let devices = match (device, device_prefix) {
            (None, None) => Devices::Any,
            (Some(device), None) => Devices::Only(device.into()),
            (None, Some(prefix)) => Devices::Prefix(prefix.into()),
            (Some(_), Some(_)) => return Err(format!("key {name}: device and device_prefix exclude each other")),
        };
        let scope = Scope { datasets, devices };
        Ok(Key { id, name: name.into(), hash: sha256, scope, created, expires, revoked })
    }
}

/// A name stands in logs and on command lines.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@/".contains(c);
    let is_good = (1..=64).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['-', '.', '/']);
    match is_good && !name.starts_with(PREFIX) {
        true => Ok(()),
        false => Err("a name of a key has up to 64 letters, digits, and any of ._-@/ after the first".to_owned()),
    }
}

/// In quotes or, as TOML also has times, without.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a time such as \"2026-11-22T08:00:00Z\"")]
    enum Time {
        Text(String),
        Time(Datetime),
    }
    let text = match Time::deserialize(deserializer)? {
        Time::Text(text) => text,
        Time::Time(time) => time.to_string(),
    };
    let time =
        parse_time(&text).ok_or_else(|| de::Error::custom("expected a time such as \"2026-11-22T08:00:00Z\""))?;
    Ok(Some(time))
}

/// A key that was pasted in a wrong place must not reach the log with the complaint about it.
fn without_secrets(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = line.split(PREFIX);
    let mut safe = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        safe.push_str(PREFIX);
        safe.push('…');
        safe.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "_-".contains(c)));
    }
    safe
}

#[cfg(test)]
mod tests;
