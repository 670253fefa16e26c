//! What must be true when everything has calmed down, asked of the table with DuckDB and of the table's log as it lies in
//! the bucket, so that the product's own code is not its judge.

use crate::support::fleet::Ledger;
use crate::support::foreign::Landed;
use crate::support::table::Table;
use lake::OffsetRange;
use lake::range::parse_ranges;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Everything at once. `garbage` is where the records lie that are no events, `ends` how long each partition is.
#[track_caller]
pub fn assert_holds(url: &str, ledger: &Ledger, garbage: &Landed, ends: &[i64], directory: &Path) {
    let mut table = Table::new(url.to_owned());
    table.assert_events(ledger, directory);
    assert_every_offset_is_accounted_for(&mut table, ledger, garbage, ends);
    assert_dead_letters_are(url, garbage);
    assert_ranges_form_chains(&mut table, url, ends);
}

/// Each offset of the log is a row once, or a dead letter, or a copy of an event that was sent more than once.
#[track_caller]
fn assert_every_offset_is_accounted_for(table: &mut Table, ledger: &Ledger, garbage: &Landed, ends: &[i64]) {
    let scan = table.scan();
    let found = table.duckdb.rows(&format!(
        "SELECT kafka_partition AS partition, count(*) AS rows, count(DISTINCT kafka_offset) AS offsets,
                max(kafka_offset) AS last
         FROM {scan} GROUP BY ALL"
    ));
    let mut left_out = ends.to_vec();
    for row in found {
        let number = |name: &str| row[name].as_i64().unwrap();
        assert_eq!(number("rows"), number("offsets"), "doubled: {row}");
        let partition = number("partition") as usize;
        assert!(number("last") < ends[partition], "{row} of {ends:?}");
        left_out[partition] -= number("rows");
    }
    garbage.keys().for_each(|(partition, _)| left_out[*partition as usize] -= 1);
    assert!(left_out.iter().all(|count| *count >= 0), "more rows and dead letters than offsets: {left_out:?}");
    let copies: i64 = left_out.iter().sum();
    assert!(copies <= ledger.spare_attempts() as i64, "{copies} offsets are nowhere: {left_out:?}");
}

#[track_caller]
fn assert_dead_letters_are(url: &str, garbage: &Landed) {
    let mut dead = Table::new(format!("{url}__dead"));
    let scan = dead.scan();
    let letters = dead.duckdb.rows(&format!(
        "SELECT kafka_partition AS p, kafka_offset AS o FROM {scan} ORDER BY kafka_partition, kafka_offset"
    ));
    let place = |row: &Value| (row["p"].as_i64().unwrap() as i32, row["o"].as_i64().unwrap());
    let letters: Vec<(i32, i64)> = letters.iter().map(place).collect();
    assert_eq!(letters, garbage.keys().copied().collect::<Vec<_>>(), "dead letters");
}

/// Reads every commit: per partition the ranges of the files follow each other, none twice, and each ends where the
/// commit says that the table now is. What no file's range covers, because it gave no row, must have none.
#[track_caller]
fn assert_ranges_form_chains(table: &mut Table, url: &str, ends: &[i64]) {
    let actions = table.duckdb.rows(&format!(
        "SELECT CAST(regexp_extract(filename, '([0-9]+)[.]json$', 1) AS BIGINT) AS version, txn->>'appId' AS app,
                CAST(txn->>'version' AS BIGINT) AS next, (add->'tags')->>'lakehose.ranges' AS ranges
         FROM read_json('{url}/_delta_log/*.json', format = 'newline_delimited', filename = true,
                        columns = {{'txn': 'JSON', 'add': 'JSON'}})
         WHERE txn IS NOT NULL OR (add->>'dataChange') = 'true' ORDER BY version"
    ));
    let mut commits: BTreeMap<i64, Commit> = BTreeMap::new();
    for action in &actions {
        commits.entry(action["version"].as_i64().unwrap()).or_default().take(action);
    }
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut uncovered = Vec::new();
    for (version, commit) in &commits {
        let ranges_of = |partition| commit.ranges.iter().filter(move |range| range.partition == partition);
        for range in &commit.ranges {
            assert!(commit.txns.contains_key(&range.partition), "version {version}: {range} moves no offset");
        }
        for (&partition, &end) in &commit.txns {
            let mut at = *next.entry(partition).or_default();
            for range in ranges_of(partition) {
                assert!(range.start >= at, "version {version}: {range} after {at}: overlap");
                uncovered.push(OffsetRange { partition, start: at, end: range.start });
                at = range.end;
            }
            assert!(end >= at, "version {version}: partition {partition} goes back from {at} to {end}");
            uncovered.push(OffsetRange { partition, start: at, end });
            next.insert(partition, end);
        }
    }
    let reached: Vec<i64> = (0..ends.len() as i32).map(|p| next.get(&p).copied().unwrap_or_default()).collect();
    assert_eq!(reached, ends, "where the table's log says that it is");
    uncovered.retain(|range| range.start < range.end);
    assert_no_rows_in(table, &uncovered);
}

#[derive(Default)]
struct Commit {
    /// A flush may have several files, one a date, of the same ranges.
    ranges: BTreeSet<OffsetRange>,
    txns: BTreeMap<i32, i64>,
}

impl Commit {
    fn take(&mut self, action: &Value) {
        if let Some(ranges) = action["ranges"].as_str() {
            self.ranges.extend(parse_ranges(ranges).unwrap());
        }
        // Applications are named `<dataset>/<partition>`.
        let partition = action["app"].as_str().and_then(|app| app.rsplit('/').next()?.parse().ok());
        if let Some(partition) = partition {
            self.txns.insert(partition, action["next"].as_i64().unwrap());
        }
    }
}

#[track_caller]
fn assert_no_rows_in(table: &mut Table, ranges: &[OffsetRange]) {
    let scan = table.scan();
    for some in ranges.chunks(200) {
        let any = some.iter().map(|OffsetRange { partition, start, end }| {
            format!("kafka_partition = {partition} AND kafka_offset >= {start} AND kafka_offset < {end}")
        });
        let any: Vec<String> = any.collect();
        let rows = table.duckdb.number(&format!("SELECT count(*) FROM {scan} WHERE ({})", any.join(") OR (")));
        assert_eq!(rows, 0, "rows that no range covers, of {some:?}");
    }
}
