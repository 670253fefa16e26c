//! Cuts good files that overlap: a query for one value of the first sort column has to open every file whose range holds
//! it, and fragments that were sorted each on its own all range over everything.
//!
//! A merge of such files writes as many that lie side by side, so where a reader met all of them it meets one. Only *wide*
//! files are merged for that, and never again once they are narrow: every row is written once for the sake of overlap,
//! however many files a date has and however few of them one job may take.
//!
//! How wide a file is does not depend on values, which may be anything, but on other files: of the most files of the date
//! that lie side by side, how many have no room beside it? If it is more than a quarter of them, it is wide.

use super::{Group, Policy, bytes, is_worth_a_cut};
use lake::DataFile;
use serde_json::Value;
use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

/// So many wide files may overlap: the fewer there are, the less is a rewrite worth.
const DEPTH: usize = 4;

/// A file is wide if it takes more than one part of so many of the room.
const PARTS: usize = 4;

/// A merge of so many segments writes [`PARTS`] at least, which are narrow then: each may be a bit larger than a segment.
pub(super) const SEGMENTS: u64 = PARTS as u64 + 1;

/// The merges that make wide files narrow.
pub(super) fn cut(good: &[Arc<DataFile>], policy: &Policy) -> Vec<Group> {
    let mut wide = ranges(good, &policy.column);
    let room = Room::of(&wide);
    wide.retain(|range| room.is_wide(range));
    if depth(&wide) <= DEPTH {
        return Vec::new();
    }
    // Files that begin and end alike overlap most.
    wide.sort_by(|a, b| (a.low, a.high, &a.file.path).cmp(&(b.low, b.high, &b.file.path)));
    let is_worth_it = |group: &[Arc<DataFile>]| {
        depth(&ranges(group, &policy.column)) >= DEPTH && is_worth_a_cut(bytes(group), policy.target_bytes)
    };
    policy.groups(wide.into_iter().map(|range| Arc::clone(range.file)).collect(), is_worth_it)
}

/// From the first to the last value of a file.
#[derive(Clone, Copy)]
struct Range<'a> {
    file: &'a Arc<DataFile>,
    low: usize,
    high: usize,
}

/// Ranges of the files of which the statistics tell it. Their bounds are numbered in the order of the values.
fn ranges<'a>(files: &'a [Arc<DataFile>], column: &str) -> Vec<Range<'a>> {
    let known: Vec<_> = files.iter().filter_map(|file| Some((file, bounds(file, column)?))).collect();
    // JSON has no number that does not compare.
    let compare = |a: &Bound, b: &Bound| a.partial_cmp(b).unwrap_or(Ordering::Equal);
    let mut values: Vec<Bound> = known.iter().flat_map(|(_, (low, high))| [*low, *high]).collect();
    values.sort_by(compare);
    values.dedup();
    let number = |bound: &Bound| values.partition_point(|value| compare(value, bound).is_lt());
    known.iter().map(|(file, (low, high))| Range { file, low: number(low), high: number(high) }).collect()
}

/// A value of a column, as the statistics tell it. Nulls come first, as in the order of rows.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Bound<'a> {
    Null,
    Number(f64),
    Text(&'a str),
}

fn bounds<'a>(file: &'a DataFile, column: &str) -> Option<(Bound<'a>, Bound<'a>)> {
    let nulls = file.stats.nulls.get(column).and_then(Value::as_u64).unwrap_or_default();
    if nulls > 0 && nulls == file.rows() {
        return Some((Bound::Null, Bound::Null));
    }
    let bound = |value: &'a Value| match value {
        Value::String(text) => Some(Bound::Text(text)),
        value => value.as_f64().map(Bound::Number),
    };
    let (low, high) = (bound(file.stats.min.get(column)?)?, bound(file.stats.max.get(column)?)?);
    Some((if nulls > 0 { Bound::Null } else { low }, high))
}

/// The most ranges that lie side by side; they may touch.
struct Room {
    /// Ends of those chosen from the left, ascending.
    ends: Vec<usize>,
    /// Starts of those chosen from the right, descending.
    starts: Vec<usize>,
}

impl Room {
    fn of(ranges: &[Range]) -> Room {
        let mut ranges = ranges.to_vec();
        let (mut ends, mut starts) = (Vec::new(), Vec::new());
        ranges.sort_by_key(|range| (range.high, range.low));
        for range in &ranges {
            if ends.last().is_none_or(|end| range.low >= *end) {
                ends.push(range.high);
            }
        }
        ranges.sort_by_key(|range| Reverse((range.low, range.high)));
        for range in &ranges {
            if starts.last().is_none_or(|start| range.high <= *start) {
                starts.push(range.low);
            }
        }
        Room { ends, starts }
    }

    fn is_wide(&self, range: &Range) -> bool {
        let before = self.ends.partition_point(|end| *end <= range.low);
        let after = self.starts.partition_point(|start| *start >= range.high);
        self.ends.len().saturating_sub(before + after) * PARTS > self.ends.len()
    }
}

/// The most files that one value falls into.
fn depth(ranges: &[Range]) -> usize {
    let mut highs: Vec<usize> = ranges.iter().map(|range| range.high).collect();
    let mut lows: Vec<usize> = ranges.iter().map(|range| range.low).collect();
    highs.sort_unstable();
    lows.sort_unstable();
    let at = |(n, low): (usize, &usize)| n + 1 - highs.partition_point(|high| high < low);
    lows.iter().enumerate().map(at).max().unwrap_or_default()
}
