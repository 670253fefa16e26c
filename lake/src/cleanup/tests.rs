use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const RETENTION: Duration = Duration::from_millis(1_000);

fn object(name: String, modified_ms: i64) -> LogObject {
    LogObject { name, bytes: 10, modified_ms }
}

fn commit(version: u64, modified_ms: i64) -> LogObject {
    object(format!("{version:020}.json"), modified_ms)
}

fn checkpoint(version: u64, modified_ms: i64) -> LogObject {
    object(format!("{version:020}.checkpoint.parquet"), modified_ms)
}

/// A commit every 10 ms and a checkpoint behind every tenth, up to `latest`.
fn log(latest: u64) -> Vec<LogObject> {
    let at = |version: u64| version as i64 * 10;
    let mut objects: Vec<LogObject> = (0..=latest).map(|version| commit(version, at(version))).collect();
    for version in (10..=latest).step_by(10) {
        objects.push(checkpoint(version, at(version) + 1));
        objects.push(object(format!("{version:020}.crc"), at(version) + 2));
    }
    objects.push(object("_last_checkpoint".into(), at(latest)));
    objects
}

fn names(objects: &[LogObject]) -> BTreeSet<&str> {
    objects.iter().map(|object| object.name.as_str()).collect()
}

#[test]
fn what_lies_behind_the_newest_checkpoint_that_is_old_enough_goes_oldest_first() {
    // The checkpoint of 20 is of 201, that of 30 of 301.
    let cleanup = decide(&log(125), Some(120), 1_290, RETENTION);
    assert_eq!(cleanup.base, Some(20));
    assert_eq!(cleanup.victims.len(), 20 + 2);
    assert_eq!(cleanup.victims.first().unwrap().name, format!("{:020}.json", 0));
    assert_eq!(cleanup.victims.last().unwrap().name, format!("{:020}.json", 19));
    assert!(cleanup.victims.is_sorted_by_key(|object| parse(&object.name).unwrap().0));
    assert_eq!(cleanup.waiting, Some(Waiting { objects: 10 + 2, bytes: 120, until_ms: 1_301 }));
}

#[test]
fn nothing_goes_while_no_checkpoint_is_old_enough_or_readers_are_not_told_of_it() {
    assert_eq!(decide(&log(99), Some(90), 990, RETENTION).victims, []);
    assert_eq!(decide(&log(125), None, 1_250, RETENTION), Cleanup::default());
    assert_eq!(decide(&log(125), Some(10), 1_250, RETENTION).base, Some(10));
    assert_eq!(decide(&[], Some(10), 1_250, RETENTION), Cleanup::default());
}

#[test]
fn a_clock_that_is_fast_or_slow_cuts_no_retention_short() {
    assert_eq!(decide(&log(99), Some(90), i64::MAX, RETENTION).victims, []);
    assert_eq!(decide(&log(125), Some(120), i64::MAX, RETENTION), decide(&log(125), Some(120), 1_250, RETENTION));
    assert_eq!(decide(&log(125), Some(120), 0, RETENTION).victims, []);
}

#[test]
fn a_checkpoint_of_which_a_part_is_missing_or_young_is_not_relied_upon() {
    let part =
        |part: u64, modified_ms| object(format!("{:020}.checkpoint.{part:010}.0000000002.parquet", 5), modified_ms);
    let commits = || (0..9).map(|version| commit(version, 0)).chain([commit(9, 5_000)]);
    let decide = |parts: &[LogObject]| {
        let objects: Vec<LogObject> = commits().chain(parts.iter().cloned()).collect();
        decide(&objects, Some(5), 5_000, RETENTION).base
    };
    assert_eq!(decide(&[part(1, 0)]), None);
    assert_eq!(decide(&[part(1, 0), part(2, 4_500)]), None);
    assert_eq!(decide(&[part(1, 0), part(2, 0)]), Some(5));
}

#[test]
fn what_is_not_known_stays() {
    let strange = [
        "_last_checkpoint",
        "_sidecars/x.parquet",
        "00000000000000000001.checkpoint.0b1d9e9a-7d5c-4f44-8d7a-000000000000.parquet",
        "00000000000000000001.checkpoint.0000000003.0000000002.parquet",
        "00000000000000000001.00000000000000000003.compacted.json",
        "1.json",
        "0000000000000000000x.json",
        "+0000000000000000001.json",
    ];
    let mut objects: Vec<LogObject> = strange.iter().map(|name| object(name.to_string(), 0)).collect();
    objects.extend([checkpoint(9, 0), commit(10, 5_000)]);
    assert_eq!(decide(&objects, Some(9), 5_000, RETENTION), Cleanup::default());
}

#[test]
fn the_latest_checkpoint_is_told() {
    assert_eq!(latest_checkpoint(&log(9)), None);
    assert_eq!(latest_checkpoint(&log(125)), Some(120));
}

/// Whether a reader finds all of `version`: a checkpoint at or below it, and every commit since.
fn is_readable(objects: &[LogObject], version: u64) -> bool {
    let names = names(objects);
    let has = |version: u64| names.contains(format!("{version:020}.json").as_str());
    let base = checkpoints(objects).range(..=version).next_back().map(|(version, _)| *version);
    (base.map_or(0, |base| base + 1)..=version).all(has)
}

proptest! {
    /// Commits, checkpoints that are late or fail, hints that are missing or behind, and clean-ups that are cut off
    /// anywhere: every version from the base on is readable, and so is whatever was the latest within the retention.
    #[test]
    fn every_version_from_the_oldest_kept_checkpoint_on_stays_readable(
        steps in proptest::collection::vec((0u8..5, 1i64..400, any::<u16>()), 1..120)
    ) {
        let (mut objects, mut now, mut latest, mut hint) = (vec![commit(0, 0)], 0, 0u64, None);
        let mut history = vec![(0, 0)];
        let mut base = 0;
        for (step, pause, random) in steps {
            now += pause;
            match step {
                0..=2 => {
                    latest += 1;
                    objects.push(commit(latest, now));
                    history.push((latest, now));
                }
                3 => {
                    // Of a version that was the latest some time ago; whether the hint follows is another matter.
                    let version = latest - latest.min(u64::from(random % 3));
                    if version >= base && !names(&objects).contains(checkpoint(version, 0).name.as_str()) {
                        objects.push(checkpoint(version, now));
                        if random % 4 > 0 {
                            hint = hint.max(Some(version));
                        }
                    }
                }
                _ => {
                    // A clock that is fast by up to a day's worth of retentions, or slow.
                    let clock = now + i64::from(random) - 30_000;
                    let cleanup = decide(&objects, hint, clock, RETENTION);
                    base = cleanup.base.unwrap_or(base).max(base);
                    // Cut off anywhere, and in any order: the store deletes several at a time.
                    let gone: Vec<LogObject> =
                        cleanup.victims.into_iter().filter(|_| random % 7 > 0).take(usize::from(random % 50)).collect();
                    objects.retain(|object| !gone.contains(object));
                }
            }
            for version in base..=latest {
                prop_assert!(is_readable(&objects, version), "version {version} of {latest}, base {base}");
            }
            let since = now - RETENTION.as_millis() as i64;
            let earliest = history.iter().rev().find(|(_, at)| *at < since).map_or(0, |(version, _)| *version);
            prop_assert!(base <= earliest, "version {earliest} was the latest within the retention, base {base}");
            prop_assert!(hint >= Some(base) || base == 0, "whoever sleeps is not told of {base}");
        }
    }
}
