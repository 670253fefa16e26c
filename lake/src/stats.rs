//! Minimum, maximum and nulls of the columns of a file, for readers to skip files.

use crate::file::FileStats;
use crate::schema::TableSchema;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Longest text that goes into the statistics, in bytes: the longest `device_id`.
const MAX_TEXT: usize = crate::event::MAX_NAME_BYTES;

/// Collects the statistics of a file over the batches written to it.
#[derive(Debug)]
pub struct StatsCollector {
    columns: Vec<ColumnStats>,
    rows: u64,
}

#[derive(Debug)]
struct ColumnStats {
    name: String,
    min: Option<Bound>,
    max: Option<Bound>,
    nulls: u64,
}

#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Bound {
    Integer(i64),
    Float(f64),
    /// Microseconds since the epoch.
    Time(i64),
    Text(String),
}

impl StatsCollector {
    pub fn new(schema: &TableSchema) -> StatsCollector {
        let column = |name: &String| ColumnStats { name: name.clone(), min: None, max: None, nulls: 0 };
        StatsCollector { columns: schema.stats.iter().map(column).collect(), rows: 0 }
    }

    /// Takes in one batch; columns that it lacks count as null.
    pub fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for stats in &mut self.columns {
            let Some(column) = batch.column_by_name(&stats.name) else {
                stats.nulls += batch.num_rows() as u64;
                continue;
            };
            stats.nulls += column.null_count() as u64;
            let (low, high) = bounds(column);
            keep(&mut stats.min, low, Ordering::Less);
            keep(&mut stats.max, high, Ordering::Greater);
        }
    }

    pub fn finish(self) -> FileStats {
        let mut stats = FileStats { rows: self.rows, ..FileStats::default() };
        for column in self.columns {
            insert(&mut stats.min, &column.name, column.min.and_then(|bound| bound.lower()));
            insert(&mut stats.max, &column.name, column.max.and_then(|bound| bound.upper()));
            stats.nulls.insert(column.name, column.nulls.into());
        }
        stats
    }
}

fn insert(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), value);
    }
}

fn keep(kept: &mut Option<Bound>, new: Option<Bound>, wanted: Ordering) {
    let Some(new) = new else { return };
    let order = |old: &Bound| match (&new, old) {
        // As columns and readers order them: whatever is not a number is above all that are.
        (Bound::Float(new), Bound::Float(old)) => Some(new.total_cmp(old)),
        (new, old) => new.partial_cmp(old),
    };
    if kept.as_ref().is_none_or(|old| order(old) == Some(wanted)) {
        *kept = Some(new);
    }
}

fn bounds(column: &ArrayRef) -> (Option<Bound>, Option<Bound>) {
    match column.data_type() {
        DataType::Int32 => {
            let column = column.as_primitive::<Int32Type>();
            (min(column).map(|v| Bound::Integer(v.into())), max(column).map(|v| Bound::Integer(v.into())))
        }
        DataType::Int64 => {
            let column = column.as_primitive::<Int64Type>();
            (min(column).map(Bound::Integer), max(column).map(Bound::Integer))
        }
        DataType::Float32 => {
            let column = column.as_primitive::<Float32Type>();
            (min(column).map(|v| Bound::Float(v.into())), max(column).map(|v| Bound::Float(v.into())))
        }
        DataType::Float64 => {
            let column = column.as_primitive::<Float64Type>();
            (min(column).map(Bound::Float), max(column).map(Bound::Float))
        }
        DataType::Timestamp(_, _) => {
            let column = column.as_primitive::<TimestampMicrosecondType>();
            (min(column).map(Bound::Time), max(column).map(Bound::Time))
        }
        DataType::Utf8 => text_bounds(column.as_string::<i32>().iter().flatten()),
        DataType::Utf8View => {
            let column = column.as_string_view();
            let views = column.views();
            // The same view is the same text, and rows are sorted by device more often than not.
            let differs = |row: &usize| *row == 0 || views[*row] != views[*row - 1] || column.is_null(*row - 1);
            let rows = (0..column.len()).filter(differs).filter(|row| column.is_valid(*row));
            text_bounds(rows.map(|row| column.value(row)))
        }
        _ => (None, None),
    }
}

fn text_bounds<'a>(mut texts: impl Iterator<Item = &'a str>) -> (Option<Bound>, Option<Bound>) {
    let Some(first) = texts.next() else { return (None, None) };
    let (low, high) = texts.fold((first, first), |(low, high), text| {
        if text < low {
            (text, high)
        } else if text > high {
            (low, text)
        } else {
            (low, high)
        }
    });
    (Some(Bound::Text(low.to_owned())), Some(Bound::Text(high.to_owned())))
}

impl Bound {
    /// A value that is not above the bound, as the table log writes it.
    fn lower(self) -> Option<Value> {
        match self {
            Bound::Time(micros) => millis(micros.div_euclid(1_000)),
            Bound::Text(text) => Some(text[..text.floor_char_boundary(MAX_TEXT)].into()),
            exact => exact.exact(),
        }
    }

    /// A value that is not below the bound. The log has milliseconds only, hence rounded up.
    fn upper(self) -> Option<Value> {
        match self {
            Bound::Time(micros) => millis(-(-micros).div_euclid(1_000)),
            // A cut text would be below the bound; without a maximum readers do not skip.
            Bound::Text(text) if text.len() > MAX_TEXT => None,
            exact => exact.exact(),
        }
    }

    fn exact(self) -> Option<Value> {
        match self {
            Bound::Integer(v) => Some(v.into()),
            Bound::Float(v) => serde_json::Number::from_f64(v).map(Value::Number),
            Bound::Text(text) => Some(text.into()),
            Bound::Time(_) => None,
        }
    }
}

fn millis(millis: i64) -> Option<Value> {
    let time = DateTime::from_timestamp_millis(millis)?;
    // A maximum rounded up from the last millisecond of the year 9999 would have five digits.
    (millis < 253_402_300_800_000).then(|| time.to_rfc3339_opts(SecondsFormat::Millis, true).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};
    use serde_json::json;
    use std::sync::Arc;

    fn batch(times: Vec<i64>, texts: Vec<Option<&str>>) -> RecordBatch {
        let time = TimestampMicrosecondArray::from(times).with_timezone("UTC");
        let schema = Schema::new(vec![
            Field::new("time", time.data_type().clone(), true),
            Field::new("device_id", DataType::Utf8, true),
        ]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(time), Arc::new(StringArray::from(texts))]).unwrap()
    }

    fn collect(batches: &[RecordBatch]) -> FileStats {
        let stats = vec!["time".into(), "device_id".into(), "absent".into()];
        let schema = TableSchema { arrow: batches[0].schema(), declared: 0..0, stats };
        let mut stats = StatsCollector::new(&schema);
        batches.iter().for_each(|batch| stats.add(batch));
        stats.finish()
    }

    #[test]
    fn times_are_rounded_outwards_to_milliseconds() {
        let stats = collect(&[batch(vec![1_001, 999], vec![Some("b"), None]), batch(vec![5_000], vec![Some("a")])]);
        assert_eq!(stats.rows, 3);
        assert_eq!(stats.min["time"], json!("1970-01-01T00:00:00.000Z"));
        assert_eq!(stats.max["time"], json!("1970-01-01T00:00:00.005Z"));
        let stats = collect(&[batch(vec![1_001], vec![None])]);
        assert_eq!(stats.max["time"], json!("1970-01-01T00:00:00.002Z"));
        assert!(!stats.min.contains_key("device_id"));
        assert_eq!((&stats.nulls["device_id"], &stats.nulls["absent"]), (&json!(1), &json!(1)));
    }

    #[test]
    fn what_is_not_a_number_leaves_no_bound_that_readers_would_skip_it_by() {
        let batch = |value: f64| {
            let values = Float64Array::from(vec![value, 1.0]);
            let schema = Schema::new(vec![Field::new("time", DataType::Float64, true)]);
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(values)]).unwrap()
        };
        for values in [[5.0, f64::NAN], [f64::NAN, 5.0]] {
            let stats = collect(&values.map(batch));
            assert_eq!((stats.min.get("time"), stats.max.get("time")), (Some(&json!(1.0)), None));
        }
    }

    #[test]
    fn long_texts_never_make_a_bound_too_narrow() {
        let long = "é".repeat(100);
        let stats = collect(&[batch(vec![0], vec![Some(&long)])]);
        let min = stats.min["device_id"].as_str().unwrap();
        assert!(min.len() <= MAX_TEXT && long.starts_with(min));
        assert!(!stats.max.contains_key("device_id"));
    }
}
