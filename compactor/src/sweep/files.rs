//! Decides which data files nobody can need any more (invariant I4): those that left the table longer ago than the
//! longest query lasts, and those that never got into it and are too old to be waiting for a commit.
//!
//! A live file is never deleted, whatever a clock says.

use super::{Retention, Waiting, Why};
use chrono::NaiveDate;
use futures::StreamExt;
use lake::store::StoreError;
use lake::table::millis;
use lake::{DataFile, Removal, Table, TableError, layout};
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A file in the store, by its path inside the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) path: String,
    pub(super) bytes: u64,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: i64,
    /// Whether it has a name of ours. What others put there is theirs, and no orphan.
    pub(super) is_ours: bool,
}

/// What the table says of its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Files in the table.
    pub(super) live: &'a BTreeMap<String, Arc<DataFile>>,
    /// Files that left it: all that did in the time of the retention.
    pub(super) removed: &'a BTreeMap<String, Removal>,
}

/// Whether a removal is longer ago than `stay`.
pub(super) fn is_past(removal: &Removal, now_ms: i64, stay: Duration) -> bool {
    removal.at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) > millis(stay))
}

/// Which files to delete at `now_ms`.
pub(super) fn decide(known: Known<'_>, stored: &[Stored], now_ms: i64, retention: Retention) -> Vec<(String, Why)> {
    let is_live = |path: &str| known.live.contains_key(path);
    let is_past = |removal: &Removal| is_past(removal, now_ms, retention.removed);
    // An upload may wait for its commit only so long, by the clocks of the store and of its processor. A clock that is
    // fast here must not cut that short, so an orphan's age is measured up to the store's latest file at most.
    let newest_ms = stored.iter().map(|file| file.modified_ms).max().unwrap_or(i64::MIN);
    let orphans_ms = millis(retention.orphans);
    let is_orphan = |file: &Stored| newest_ms.min(now_ms).saturating_sub(file.modified_ms) > orphans_ms;
    let mut victims: BTreeMap<String, Why> = BTreeMap::new();
    for (path, removal) in known.removed {
        if is_past(removal) && !is_live(path) {
            victims.insert(path.clone(), Why::Removed);
        }
    }
    for file in stored {
        let is_awaited = known.removed.get(&file.path).is_some_and(|removal| !is_past(removal));
        if file.is_ours && is_orphan(file) && !is_live(&file.path) && !is_awaited {
            victims.entry(file.path.clone()).or_insert(Why::Orphan);
        }
    }
    victims.into_iter().collect()
}

/// What stays for now at `now_ms` though no version has it, and until when. Only what is `stored` is counted.
pub(super) fn waiting(known: Known<'_>, stored: &[Stored], now_ms: i64, retention: Retention) -> Vec<Waiting> {
    let due: BTreeMap<String, Why> = decide(known, stored, now_ms, retention).into_iter().collect();
    let stays = |file: &&Stored| !known.live.contains_key(&file.path) && !due.contains_key(&file.path);
    let (mut removed, mut orphans) = (Vec::new(), Vec::new());
    for file in stored.iter().filter(stays) {
        match known.removed.get(&file.path) {
            Some(removal) => {
                let since_ms = removal.at_ms.unwrap_or(now_ms);
                removed.push((file.bytes, since_ms.saturating_add(millis(retention.removed))));
            }
            None if !file.is_ours => {}
            None => orphans.push((file.bytes, file.modified_ms.saturating_add(millis(retention.orphans)))),
        }
    }
    let both = [(Why::Removed, removed), (Why::Orphan, orphans)];
    both.into_iter().filter_map(|(why, files)| Waiting::sum(why, &files)).collect()
}

/// All data files in the directories of dates.
pub(super) async fn list(table: &Table) -> Result<Vec<Stored>, TableError> {
    let root = table.file_path("");
    let failed = |source| StoreError::Object { operation: "list", path: root.to_string(), source };
    let directories = table.store().list_with_delimiter(Some(&root)).await.map_err(failed)?.common_prefixes;
    let mut stored = Vec::new();
    for directory in directories.iter().filter(|directory| is_date(directory)) {
        let mut objects = table.store().list(Some(directory));
        while let Some(object) = objects.next().await {
            let object = object.map_err(failed)?;
            let Some(parts) = object.location.prefix_match(&root) else { continue };
            let path = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            if path.ends_with(".parquet") {
                let (is_ours, modified_ms) = (layout::is_ours(&path), object.last_modified.timestamp_millis());
                stored.push(Stored { path, bytes: object.size, modified_ms, is_ours });
            }
        }
    }
    Ok(stored)
}

fn is_date(directory: &Path) -> bool {
    let date = directory.filename().and_then(|name| name.strip_prefix("date="));
    date.is_some_and(|date| date.parse::<NaiveDate>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000;

    const RETENTION: Retention = Retention {
        dates: None,
        removed: Duration::from_millis(60),
        orphans: Duration::from_millis(240),
        log: Duration::ZERO,
    };

    fn live(paths: &[&str]) -> BTreeMap<String, Arc<DataFile>> {
        let file = |path: &str| DataFile {
            path: path.into(),
            size: 1,
            date: NaiveDate::default(),
            modified_ms: 0,
            stats: Default::default(),
            ranges: Vec::new(),
            sorted_by: Vec::new(),
        };
        paths.iter().map(|path| (path.to_string(), Arc::new(file(path)))).collect()
    }

    fn removal(age: i64) -> Removal {
        Removal { version: 1, at_ms: Some(NOW - age) }
    }

    fn deleted(live_paths: &[&str], removed: &[(&str, i64)], stored: &[(&str, i64)]) -> Vec<(String, Why)> {
        let removed = removed.iter().map(|(path, age)| (path.to_string(), removal(*age))).collect();
        let stored: Vec<Stored> = stored
            .iter()
            .map(|(path, age)| Stored { path: path.to_string(), bytes: 10, modified_ms: NOW - age, is_ours: true })
            .collect();
        decide(Known { live: &live(live_paths), removed: &removed }, &stored, NOW, RETENTION)
    }

    #[test]
    fn a_removed_file_goes_when_its_time_is_over() {
        assert_eq!(deleted(&[], &[("new", 60), ("old", 61)], &[]), [("old".to_owned(), Why::Removed)]);
    }

    #[test]
    fn a_removed_file_of_which_the_store_does_not_say_when_it_left_stays() {
        let removed = [("a".to_owned(), Removal { version: 1, at_ms: None })].into();
        let stored = [("a", 100_000), ("b", 0)].map(|(path, age)| Stored {
            path: path.to_owned(),
            bytes: 10,
            modified_ms: NOW - age,
            is_ours: true,
        });
        assert_eq!(decide(Known { live: &live(&[]), removed: &removed }, &stored, NOW, RETENTION), []);
    }

    #[test]
    fn an_orphan_goes_when_it_cannot_be_waiting_for_a_commit() {
        let stored = [("now", 0), ("new", 240), ("old", 241)];
        assert_eq!(deleted(&[], &[], &stored), [("old".to_owned(), Why::Orphan)]);
    }

    #[test]
    fn a_clock_that_is_fast_deletes_no_file_that_may_be_waiting_for_its_commit() {
        // By this clock both are old; by the store's, one came soon after the other.
        assert_eq!(deleted(&[], &[], &[("just now", 100_000), ("before", 100_240)]), []);
        let stored = [("just now", 100_000), ("old", 100_241)];
        assert_eq!(deleted(&[], &[], &stored), [("old".to_owned(), Why::Orphan)]);
    }

    #[test]
    fn a_file_of_others_is_no_orphan_and_tells_the_time_as_well_as_any() {
        let at = |path: &str, age, is_ours| Stored { path: path.into(), bytes: 10, modified_ms: NOW - age, is_ours };
        let stored = [at("theirs", 100_000, false), at("ours", 241, true), at("their newest", 0, false)];
        let known = Known { live: &live(&[]), removed: &BTreeMap::new() };
        assert_eq!(decide(known, &stored, NOW, RETENTION), [("ours".to_owned(), Why::Orphan)]);
        assert_eq!(waiting(known, &stored, NOW, RETENTION), []);
    }

    #[test]
    fn a_file_removed_lately_is_no_orphan_however_old_it_is() {
        assert_eq!(deleted(&[], &[("a", 10)], &[("a", 100_000)]), []);
    }

    #[test]
    fn a_live_file_stays_whatever_the_clock_says() {
        assert_eq!(deleted(&["a", "b"], &[("a", 100_000)], &[("a", 100_000), ("b", 100_000)]), []);
    }

    #[test]
    fn a_clock_that_is_behind_deletes_nothing() {
        assert_eq!(deleted(&[], &[("a", -1_000)], &[("b", -1_000)]), []);
    }

    /// An upload waits for its commit no longer.
    const COMMIT_WITHIN: i64 = 120;

    /// When a file was written, came into the table and left it, by the clock of the store.
    #[derive(Debug, Clone, Copy)]
    struct History {
        written: i64,
        added: Option<i64>,
        removed: Option<i64>,
    }

    fn history() -> impl Strategy<Value = History> {
        let add = proptest::option::weighted(0.8, 0..COMMIT_WITHIN);
        let remove = proptest::option::of(1..600i64);
        (0..NOW, add, remove, any::<bool>()).prop_map(|(written, add, remove, is_recent)| {
            let written = if is_recent { NOW - written % 700 } else { written };
            let added = add.map(|wait| written + wait);
            History { written, added, removed: added.zip(remove).map(|(added, stay)| added + stay) }
        })
    }

    proptest! {
        /// Whatever the clock of the sweeper says: a reader of any version that was the latest within the retention finds
        /// its files, and an upload that is under way its own. With the right time, nothing else stays.
        #[test]
        fn nothing_goes_that_a_query_or_an_upload_needs_and_nothing_else_stays(
            histories in proptest::collection::vec(history(), 0..40),
            skew in prop_oneof![Just(0i64), -2_000..2_000i64, -NOW..NOW],
            asked_for in 60..1_000i64,
        ) {
            let path = |n: usize| format!("f{n:02}");
            let past = |at: Option<i64>| at.is_some_and(|at| at <= NOW);
            let files: Vec<(String, History)> =
                histories.iter().filter(|file| file.written <= NOW).enumerate().map(|(n, file)| (path(n), *file)).collect();
            let is_live = |file: &History| past(file.added) && !past(file.removed);
            let live_paths: Vec<&str> =
                files.iter().filter(|(_, file)| is_live(file)).map(|(path, _)| path.as_str()).collect();
            // What left longer ago than the log was asked for is not known to have been there.
            let is_known = |file: &History| past(file.removed) && file.removed.is_some_and(|at| NOW - at <= asked_for);
            let removal = |at_ms| Removal { version: 1, at_ms };
            let removed: BTreeMap<String, Removal> = files.iter().filter(|(_, file)| is_known(file))
                .map(|(path, file)| (path.clone(), removal(file.removed))).collect();
            let mut stored: Vec<Stored> = files.iter()
                .map(|(path, file)| Stored { path: path.clone(), bytes: 1, modified_ms: file.written, is_ours: true }).collect();
            stored.push(Stored { path: "newest".into(), bytes: 1, modified_ms: NOW, is_ours: true });

            // As a sweep has it, which asks the store for the time.
            let now_ms = NOW.min(NOW + skew);
            let victims = decide(Known { live: &live(&live_paths), removed: &removed }, &stored, now_ms, RETENTION);
            let goes = |path: &str| victims.iter().any(|(victim, _)| victim == path);
            prop_assert!(!goes("newest"));
            for (path, file) in &files {
                let left = file.removed.filter(|_| past(file.removed));
                let is_needed = is_live(file)
                    || left.is_some_and(|at| NOW - at <= 60)
                    || left.is_none() && NOW - file.written <= 2 * COMMIT_WITHIN;
                prop_assert!(!is_needed || !goes(path), "{path} {file:?}");
                let is_left_over = left.map_or(NOW - file.written > 240, |at| NOW - at > 60 && is_known(file));
                prop_assert!(skew < 0 || is_live(file) || !is_left_over || goes(path), "{path} {file:?} stays");
            }
        }
    }

    #[test]
    fn what_waits_is_told_with_the_time_until_it_does() {
        let removed = [("a", 50), ("b", 20), ("gone", 61)].map(|(path, age)| (path.to_owned(), removal(age))).into();
        let at = |path: &str, age| Stored { path: path.into(), bytes: 10, modified_ms: NOW - age, is_ours: true };
        let stored = [at("a", 900), at("b", 900), at("live", 900), at("new", 40), at("old", 241), at("now", 0)];
        let live = live(&["live"]);
        let waiting = waiting(Known { live: &live, removed: &removed }, &stored, NOW, RETENTION);
        let expected = [
            Waiting { why: Why::Removed, files: 2, bytes: 20, first_ms: NOW + 10, last_ms: NOW + 40 },
            Waiting { why: Why::Orphan, files: 2, bytes: 20, first_ms: NOW + 200, last_ms: NOW + 240 },
        ];
        assert_eq!(waiting, expected);
    }
}
