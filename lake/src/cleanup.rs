//! Decides which objects of a table's log nobody needs any more.
//!
//! A checkpoint stands for every commit before it. The newest complete checkpoint that is older than the retention stays,
//! and what lies below its version goes. So every version that was the latest one at some time within the retention can
//! still be read: at the retention's start there was that checkpoint.
//!
//! `_last_checkpoint` is never touched, and a checkpoint above the version that it names is not relied upon. That makes
//! clean-up safe for whoever slept for a day and still holds an old version: before he believes that no commit follows
//! his, he reads `_last_checkpoint`, and it names a later version if what followed was cleaned up. No clock, and no order
//! of deletions, has a part in that; see [`crate::table::Table::refresh`].

use crate::table::millis;
use std::collections::BTreeMap;
use std::time::Duration;

/// An object in the directory of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogObject {
    pub name: String,
    pub bytes: u64,
    /// Milliseconds since the epoch, by the clock of the store.
    pub modified_ms: i64,
}

/// What is to be cleaned up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// The oldest version that stays readable, if anything goes.
    pub base: Option<u64>,
    /// What lies below it, the oldest versions first.
    pub victims: Vec<LogObject>,
    /// Objects that the next checkpoint in line stands for, and since when it does.
    pub waiting: Option<Waiting>,
}

/// What goes once a checkpoint is old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub objects: usize,
    pub bytes: u64,
    /// Milliseconds since the epoch.
    pub until_ms: i64,
}

/// What an object of the log is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Commit,
    Checksum,
    /// One object of so many that are a checkpoint together.
    Checkpoint {
        parts: u64,
    },
}

/// Which objects to delete at `now_ms`, if `_last_checkpoint` names the version `hint`.
pub fn decide(objects: &[LogObject], hint: Option<u64>, now_ms: i64, retention: Duration) -> Cleanup {
    // A clock that is fast here must not cut the retention short, so age is measured up to the log's latest object at
    // most. A log to which nothing is added stays as it is.
    let newest_ms = objects.iter().map(|object| object.modified_ms).max().unwrap_or(i64::MIN);
    let now_ms = newest_ms.min(now_ms);
    let retention_ms = millis(retention);
    let is_old = |written_ms: i64| now_ms.saturating_sub(written_ms) > retention_ms;
    let checkpoints = checkpoints(objects);
    let relied_on = || checkpoints.iter().filter(|(version, _)| hint.is_some_and(|hint| **version <= hint));
    let base = relied_on().rev().find(|(_, written_ms)| is_old(**written_ms)).map(|(version, _)| *version);
    let next = relied_on().find(|(version, _)| base.is_none_or(|base| **version > base));

    let mut known: Vec<(u64, &LogObject)> =
        objects.iter().filter_map(|object| Some((parse(&object.name)?.0, object))).collect();
    known.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let below = |version: u64| known.iter().filter(move |(of, _)| *of < version).map(|(_, object)| *object);
    let victims: Vec<LogObject> = base.into_iter().flat_map(below).cloned().collect();
    let waiting = next.map(|(version, written_ms)| {
        let all = (below(*version).count(), below(*version).map(|object| object.bytes).sum::<u64>());
        let gone: u64 = victims.iter().map(|object| object.bytes).sum();
        let until_ms = written_ms.saturating_add(retention_ms);
        Waiting { objects: all.0 - victims.len(), bytes: all.1 - gone, until_ms }
    });
    Cleanup { base: base.filter(|_| !victims.is_empty()), victims, waiting: waiting.filter(|next| next.objects > 0) }
}

/// The newest version of which there is a complete checkpoint.
pub fn latest_checkpoint(objects: &[LogObject]) -> Option<u64> {
    checkpoints(objects).last_key_value().map(|(version, _)| *version)
}

/// Complete checkpoints, and when their last parts were written.
fn checkpoints(objects: &[LogObject]) -> BTreeMap<u64, i64> {
    // Two writers may cut a checkpoint into different numbers of parts: each number is a checkpoint of its own.
    let mut found: BTreeMap<(u64, u64), (u64, i64)> = BTreeMap::new();
    for object in objects {
        if let Some((version, Kind::Checkpoint { parts })) = parse(&object.name) {
            let (count, written_ms) = found.entry((version, parts)).or_insert((0, i64::MIN));
            *count += 1;
            *written_ms = object.modified_ms.max(*written_ms);
        }
    }
    let complete = found.into_iter().filter(|((_, parts), (count, _))| count == parts);
    complete.map(|((version, _), (_, written_ms))| (version, written_ms)).collect()
}

/// Version and kind of an object; `None` for one that clean-up leaves alone, as `_last_checkpoint`.
fn parse(name: &str) -> Option<(u64, Kind)> {
    let (version, rest) = name.split_once('.')?;
    if version.len() != 20 {
        return None;
    }
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let version = number(version)?;
    let kind = match rest.split('.').collect::<Vec<_>>()[..] {
        ["json"] => Kind::Commit,
        ["crc"] => Kind::Checksum,
        ["checkpoint", "parquet"] => Kind::Checkpoint { parts: 1 },
        ["checkpoint", part, parts, "parquet"] => {
            let (part, parts) = (number(part)?, number(parts)?);
            (1..=parts).contains(&part).then_some(Kind::Checkpoint { parts })?
        }
        _ => return None,
    };
    Some((version, kind))
}

#[cfg(test)]
mod tests;
