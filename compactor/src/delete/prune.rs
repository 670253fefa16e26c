//! Which files, and which of their row groups, cannot hold rows that are meant, and need not be read.
//!
//! Only what this project wrote says what it holds. A file of another writer, which has no offset ranges, is always read:
//! its statistics may be cut or rounded in ways of its own. The date is believed of every file, because to readers it
//! *is* the date of its rows.

use super::predicate::{Predicate, Span, TIME};
use crate::input::Input;
use crate::merge::MergeError;
use chrono::{DateTime, NaiveDate};
use lake::DataFile;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use serde_json::Value;
use std::collections::BTreeSet;

const MICROS_OF_DAY: i64 = 86_400_000_000;

/// Whether the file may hold rows that are meant.
pub(super) fn may_hold(predicate: &Predicate, file: &DataFile) -> bool {
    if !predicate.takes_date(file.date) {
        return false;
    }
    if is_foreign(file) {
        return true;
    }
    let (min, max) = (&file.stats.min, &file.stats.max);
    let texts = predicate
        .texts
        .iter()
        .all(|(name, values)| any_within(values, min.get(*name).and_then(text), max.get(*name).and_then(text)));
    let time = predicate.time.as_ref().is_none_or(|span| {
        // Times in the statistics are milliseconds, rounded outwards.
        meets(span, min.get(TIME).and_then(micros), max.get(TIME).and_then(micros))
            && meets(span, Some(first_of(file.date)), Some(first_of(file.date) + MICROS_OF_DAY - 1))
    });
    texts && time
}

/// Numbers of the row groups that may hold rows that are meant.
pub(super) async fn row_groups(
    predicate: &Predicate,
    file: &DataFile,
    input: &Input,
) -> Result<Vec<usize>, MergeError> {
    if is_foreign(file) {
        return Ok((0..input.row_groups().len()).collect());
    }
    let mut wanted = Vec::new();
    for (group, metadata) in input.row_groups().iter().enumerate() {
        if !group_may_hold(predicate, metadata) {
            continue;
        }
        if let (Some(values), Some(id)) = (predicate.texts.get("id"), column(metadata, "id")) {
            let filter = input.bloom_filter(group, id).await?;
            if filter.is_some_and(|filter| !values.iter().any(|value| filter.check(value.as_str()))) {
                continue;
            }
        }
        wanted.push(group);
    }
    Ok(wanted)
}

fn group_may_hold(predicate: &Predicate, group: &RowGroupMetaData) -> bool {
    let statistics = |name: &str| group.column(column(group, name)?).statistics();
    let texts = predicate.texts.iter().all(|(name, values)| match statistics(name) {
        Some(Statistics::ByteArray(bounds)) => any_within(values, bounds.min_bytes_opt(), bounds.max_bytes_opt()),
        _ => true,
    });
    let time = predicate.time.as_ref().is_none_or(|span| match statistics(TIME) {
        Some(Statistics::Int64(bounds)) => meets(span, bounds.min_opt().copied(), bounds.max_opt().copied()),
        _ => true,
    });
    texts && time
}

fn column(group: &RowGroupMetaData, name: &str) -> Option<usize> {
    group.columns().iter().position(|column| column.column_path().parts() == [name])
}

fn is_foreign(file: &DataFile) -> bool {
    file.ranges.is_empty()
}

/// Whether one of the values lies between the bounds, as far as they are known.
fn any_within(values: &BTreeSet<String>, min: Option<&[u8]>, max: Option<&[u8]>) -> bool {
    let within = |value: &[u8]| min.is_none_or(|min| min <= value) && max.is_none_or(|max| value <= max);
    values.iter().any(|value| within(value.as_bytes()))
}

fn meets(span: &Span, min: Option<i64>, max: Option<i64>) -> bool {
    min.is_none_or(|min| min <= *span.end()) && max.is_none_or(|max| *span.start() <= max)
}

fn text(value: &Value) -> Option<&[u8]> {
    value.as_str().map(str::as_bytes)
}

fn micros(time: &Value) -> Option<i64> {
    DateTime::parse_from_rfc3339(time.as_str()?).ok().map(|time| time.timestamp_micros())
}

fn first_of(date: NaiveDate) -> i64 {
    i64::from(date.to_epoch_days()) * MICROS_OF_DAY
}
