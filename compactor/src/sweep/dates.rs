//! Expires dates: rows that are older than the dataset's retention leave the table, a whole date at a time.
//!
//! A date is expired when all of its day (in UTC) is longer ago than the retention: `date + 1 day + retention <= now`. Its
//! files leave the table by commits of nothing but `remove`, decided anew on each version; no data is touched. Queries
//! that are under way read on, for the files are deleted later, as every removed file is.
//!
//! Rows that come late for an expired date are taken in, and expire with the next sweep.

use super::{ExpiredDate, Mode, Report, Waiting, Why, store_now_ms};
use crate::members::PROCESS;
use crate::metrics;
use crate::view::View;
use chrono::NaiveDate;
use lake::table::{millis, now_ms};
use lake::{Change, DataFile, Outcome, Table, TableError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// Most files that one commit removes: it is then about a megabyte.
const BATCH: usize = 4_096;

/// Attempts at a store that fails.
const ATTEMPTS: u32 = 6;

/// When a date expires, milliseconds since the epoch.
fn expires_ms(date: NaiveDate, keep: Duration) -> i64 {
    const DAY_MS: i64 = 86_400_000;
    let start_ms = i64::from(date.to_epoch_days()) * DAY_MS;
    start_ms.saturating_add(DAY_MS).saturating_add(millis(keep))
}

/// Whether a date is expired at `now_ms`.
pub(crate) fn is_expired(date: NaiveDate, now_ms: i64, keep: Duration) -> bool {
    expires_ms(date, keep) <= now_ms
}

/// The files that leave the table at `now_ms`, oldest date first.
fn decide(files: &BTreeMap<String, Arc<DataFile>>, now_ms: i64, keep: Duration) -> Vec<Arc<DataFile>> {
    let mut expired: Vec<Arc<DataFile>> =
        files.values().filter(|file| is_expired(file.date, now_ms, keep)).map(Arc::clone).collect();
    expired.sort_by(|a, b| (a.date, &a.path).cmp(&(b.date, &b.path)));
    expired
}

/// Removes what is expired from the table, at the version that is then the latest.
pub(super) async fn expire(
    table: &Table,
    view: &mut View,
    keep: Duration,
    mode: Mode,
    report: &mut Report,
) -> Result<(), TableError> {
    let mut now_ms = now_ms();
    if mode != Mode::DryRun && !decide(view.state.files(), now_ms, keep).is_empty() {
        // A clock that is fast here must not take rows out of the table early.
        now_ms = now_ms.min(store_now_ms(table).await?);
    }
    let mut failures = 0;
    loop {
        let expired = decide(view.state.files(), now_ms, keep);
        if expired.is_empty() || mode == Mode::DryRun {
            report.expired.extend(dates(&expired));
            break;
        }
        let batch = &expired[..expired.len().min(BATCH)];
        match table.commit(&mut view.state, &change(batch, keep)).await {
            Ok(Outcome::Committed) => committed(table, view.state.version, dates(batch), report).await,
            // Decided anew, on the version that somebody else has made.
            Ok(Outcome::Conflict) => {}
            Err(error) if error.is_retryable() && failures + 1 < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(50 << failures)).await;
                failures += 1;
                view.refresh(table).await?;
            }
            Err(error) => return Err(error),
        }
    }
    let next = view.state.files().values().filter(|file| !is_expired(file.date, now_ms, keep));
    if let Some(date) = next.map(|file| file.date).min() {
        let files: Vec<(u64, i64)> = view
            .state
            .files()
            .values()
            .filter(|file| file.date == date)
            .map(|file| (file.size, expires_ms(date, keep)))
            .collect();
        report.waiting.extend(Waiting::sum(Why::Expired, &files));
    }
    Ok(())
}

async fn committed(table: &Table, version: u64, dates: Vec<ExpiredDate>, report: &mut Report) {
    for expired in dates {
        let ExpiredDate { date, files, rows, bytes } = expired;
        info!(table = table.name(), %date, files, rows, bytes, "date expired");
        metrics::date_expired(table.name(), &expired);
        match report.expired.iter_mut().find(|known| known.date == date) {
            Some(known) => {
                known.files += files;
                known.rows += rows;
                known.bytes += bytes;
            }
            None => report.expired.push(expired),
        }
    }
    if let Err(failure) = table.checkpoint_if_due(version).await {
        warn!(table = table.name(), error = format!("{:#}", anyhow::Error::from(failure)), "write checkpoint");
    }
}

fn change(files: &[Arc<DataFile>], keep: Duration) -> Change {
    let dates = dates(files);
    let names: Vec<String> = dates.iter().map(|expired| expired.date.to_string()).collect();
    let facts = [
        ("dates", names.join(",").into()),
        ("retentionSeconds", keep.as_secs().into()),
        ("files", files.len().into()),
        ("rows", dates.iter().map(|expired| expired.rows).sum::<u64>().into()),
        ("bytes", dates.iter().map(|expired| expired.bytes).sum::<u64>().into()),
        ("by", PROCESS.as_str().into()),
    ];
    Change {
        operation: "DELETE",
        parameters: facts.map(|(name, value)| (name.to_owned(), value)).into(),
        removes: files.iter().map(|file| DataFile::clone(file)).collect(),
        data_change: true,
        ..Change::default()
    }
}

fn dates(files: &[Arc<DataFile>]) -> Vec<ExpiredDate> {
    let mut dates: BTreeMap<NaiveDate, ExpiredDate> = BTreeMap::new();
    for file in files {
        let date = file.date;
        let expired = dates.entry(date).or_insert(ExpiredDate { date, files: 0, rows: 0, bytes: 0 });
        expired.files += 1;
        expired.rows += file.rows();
        expired.bytes += file.size;
    }
    dates.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_MS: i64 = 3_600_000;

    fn date(date: &str) -> NaiveDate {
        date.parse().unwrap()
    }

    fn at(time: &str) -> i64 {
        chrono::DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis()
    }

    fn file(date: NaiveDate, name: &str) -> Arc<DataFile> {
        Arc::new(DataFile {
            path: format!("date={date}/{name}"),
            size: 10,
            date,
            modified_ms: 0,
            stats: Default::default(),
            ranges: Vec::new(),
            sorted_by: Vec::new(),
        })
    }

    fn files(of: &[(NaiveDate, &str)]) -> BTreeMap<String, Arc<DataFile>> {
        of.iter().map(|(date, name)| file(*date, name)).map(|file| (file.path.clone(), file)).collect()
    }

    #[test]
    fn a_date_expires_when_its_last_moment_is_as_old_as_the_retention() {
        let keep = Duration::from_secs(90 * 86_400);
        let day = date("2026-08-23");
        assert!(!is_expired(day, at("2026-11-21T23:59:59.999Z"), keep));
        assert!(is_expired(day, at("2026-11-22T00:00:00Z"), keep));
        // A retention need not be whole days.
        assert!(!is_expired(day, at("2026-08-24T05:59:59Z"), Duration::from_secs(6 * 3_600)));
        assert!(is_expired(day, at("2026-08-24T06:00:00Z"), Duration::from_secs(6 * 3_600)));
        assert!(!is_expired(date("1969-12-31"), i64::MAX - 1, Duration::MAX));
        assert!(is_expired(date("0001-01-01"), 0, keep));
    }

    #[test]
    fn a_clock_that_is_behind_expires_nothing_early_and_one_that_is_ahead_no_more_than_by_what_it_is() {
        let keep = Duration::from_secs(86_400);
        let all = files(&[(date("2026-11-19"), "a"), (date("2026-11-20"), "b"), (date("2026-11-21"), "c")]);
        let now = at("2026-11-22T12:00:00Z");
        let paths = |now_ms| decide(&all, now_ms, keep).iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(now), ["date=2026-11-19/a", "date=2026-11-20/b"]);
        assert_eq!(paths(now - 13 * HOUR_MS), ["date=2026-11-19/a"]);
        assert_eq!(paths(0), [] as [&str; 0]);
        assert_eq!(paths(now + 12 * HOUR_MS).len(), 3);
        assert_eq!(paths(now + 11 * HOUR_MS).len(), 2);
    }

    proptest! {
        /// Whatever the files: what goes is whole dates, the oldest ones, and none of the time of the retention.
        #[test]
        fn whole_dates_go_and_only_old_ones(
            days in proptest::collection::vec((0u64..60, 0u8..4), 0..80), keep in 0u64..60, now in 0i64..60 * 86_400_000
        ) {
            let start = date("1970-01-01");
            let named: Vec<(NaiveDate, String)> =
                days.iter().map(|(day, name)| (start + chrono::Days::new(*day), name.to_string())).collect();
            let all = files(&named.iter().map(|(date, name)| (*date, name.as_str())).collect::<Vec<_>>());
            let keep = Duration::from_secs(keep * 86_400);
            let gone = decide(&all, now, keep);
            prop_assert!(gone.is_sorted_by_key(|file| file.date));
            let last = gone.last().map(|file| file.date);
            for file in all.values() {
                let goes = gone.iter().any(|gone| gone.path == file.path);
                prop_assert_eq!(goes, last.is_some_and(|last| file.date <= last));
                let newest_row_ms = i64::from(file.date.to_epoch_days() + 1) * 86_400_000 - 1;
                prop_assert_eq!(goes, now - newest_row_ms > keep.as_millis() as i64);
            }
        }
    }
}
