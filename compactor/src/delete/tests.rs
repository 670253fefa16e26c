//! What a clause means, and that nothing that is meant is passed over: against a naive reading of rows.

use super::predicate::{Predicate, TIME, cut};
use super::prune;
use crate::input::Input;
use arrow::array::{ArrayRef, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use chrono::{DateTime, SecondsFormat};
use lake::parquet::FileWriter;
use lake::schema::{self, TableSchema};
use lake::{DataFile, OffsetRange, layout};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::sync::Arc;

const DAY: i64 = 20_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// device_id, id, type, time in microseconds since the start of the day.
#[derive(Debug, Clone)]
struct Row {
    texts: [Option<String>; 3],
    time: Option<i64>,
}

/// A condition, as a test means it.
#[derive(Debug, Clone)]
enum Condition {
    /// Number of the column, values, and whether it is written as `OR`.
    Text(usize, Vec<String>, bool),
    /// Operator, and microseconds since the start of the day.
    Time(usize, i64),
    TimeBetween(i64, i64),
    /// Operator, and days since the day.
    Date(usize, i64),
    DateBetween(i64, i64),
}

const COLUMNS: [&str; 3] = ["device_id", "id", "type"];
const OPERATORS: [&str; 5] = ["=", "<", "<=", ">", ">="];
const TURNED: [&str; 5] = ["=", ">", ">=", "<", "<="];

fn compare(operator: usize, left: i64, right: i64) -> bool {
    match OPERATORS[operator] {
        "=" => left == right,
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        _ => left >= right,
    }
}

impl Condition {
    fn holds(&self, row: &Row) -> bool {
        match self {
            Condition::Text(column, values, _) => row.texts[*column].as_ref().is_some_and(|text| values.contains(text)),
            Condition::Time(operator, time) => row.time.is_some_and(|row| compare(*operator, row, *time)),
            Condition::TimeBetween(from, to) => row.time.is_some_and(|row| *from <= row && row <= *to),
            Condition::Date(operator, day) => compare(*operator, 0, *day),
            Condition::DateBetween(from, to) => (*from..=*to).contains(&0),
        }
    }

    fn written(&self, is_turned: bool) -> String {
        let quoted = |text: &String| format!("'{}'", text.replace('\'', "''"));
        let comparison = |column: &str, operator: usize, value: String| match is_turned {
            true => format!("{value} {} {column}", TURNED[operator]),
            false => format!("{column} {} {value}", OPERATORS[operator]),
        };
        let time = |time: i64| {
            let time = DateTime::from_timestamp_micros(DAY * DAY_MICROS + time).unwrap();
            format!("'{}'", time.to_rfc3339_opts(SecondsFormat::Micros, true))
        };
        let date = |day: i64| format!("DATE '{}'", layout::date_from_days((DAY + day) as i32));
        match self {
            Condition::Text(column, values, true) => {
                let equal = |value| comparison(COLUMNS[*column], 0, quoted(value));
                format!("({})", values.iter().map(equal).collect::<Vec<_>>().join(" OR "))
            }
            Condition::Text(column, values, false) => {
                let values: Vec<String> = values.iter().map(quoted).collect();
                format!("{} IN ({})", COLUMNS[*column], values.join(", "))
            }
            Condition::Time(operator, at) => comparison("time", *operator, time(*at)),
            Condition::TimeBetween(from, to) => format!("time BETWEEN {} AND {}", time(*from), time(*to)),
            Condition::Date(operator, day) => comparison("date", *operator, date(*day)),
            Condition::DateBetween(from, to) => format!("date BETWEEN {} AND {}", date(*from), date(*to)),
        }
    }
}

/// Of few values: quoted, empty, beside each other, and longer than what statistics hold.
fn value() -> impl Strategy<Value = String> {
    let long = "é".repeat(100);
    let values = ["", "a", "b", "it's", "ab", "z", &long, &format!("{long}z")];
    proptest::sample::select(values.map(str::to_owned).to_vec())
}

/// Around the first and the last moment of the day, and around a millisecond.
fn time() -> impl Strategy<Value = i64> {
    proptest::sample::select(vec![0, 1, 999, 1_000, 1_001, 2_000, DAY_MICROS - 1])
}

fn row() -> impl Strategy<Value = Row> {
    let text = || proptest::option::weighted(0.9, value());
    let texts = (text(), text(), text()).prop_map(|(device, id, kind)| [device, id, kind]);
    (texts, proptest::option::weighted(0.9, time())).prop_map(|(texts, time)| Row { texts, time })
}

fn condition() -> impl Strategy<Value = Condition> {
    let values = proptest::collection::vec(value(), 1..4);
    prop_oneof![
        (0..3usize, values, any::<bool>()).prop_map(|(column, values, or)| Condition::Text(column, values, or)),
        (0..5usize, -1..DAY_MICROS + 1).prop_map(|(operator, at)| Condition::Time(operator, at)),
        (0..5usize, time()).prop_map(|(operator, at)| Condition::Time(operator, at)),
        (time(), time()).prop_map(|(from, to)| Condition::TimeBetween(from, to)),
        (0..5usize, -1..2i64).prop_map(|(operator, day)| Condition::Date(operator, day)),
        (-1..2i64, -1..2i64).prop_map(|(from, to)| Condition::DateBetween(from, to)),
    ]
}

fn conditions() -> impl Strategy<Value = (Vec<Condition>, String)> {
    let written = |(condition, is_turned): &(Condition, bool)| condition.written(*is_turned);
    proptest::collection::vec((condition(), any::<bool>()), 1..4).prop_map(move |conditions| {
        let text = conditions.iter().map(written).collect::<Vec<_>>().join(" AND ");
        (conditions.into_iter().map(|(condition, _)| condition).collect(), text)
    })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let text = |column: usize| {
        let texts = rows.iter().map(|row| row.texts[column].as_deref());
        Arc::new(StringViewArray::from_iter(texts)) as ArrayRef
    };
    let times = rows.iter().map(|row| row.time.map(|time| DAY * DAY_MICROS + time));
    let time = TimestampMicrosecondArray::from_iter(times).with_timezone(schema::ZONE);
    let columns: [(&str, ArrayRef); 4] =
        [("device_id", text(0)), ("id", text(1)), ("type", text(2)), (TIME, Arc::new(time))];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.map(|(_, column)| column).to_vec()).unwrap()
}

/// A file of these rows, a row group for each slice, and the file's bytes.
fn file(groups: &[Vec<Row>]) -> (DataFile, Vec<u8>) {
    let stats = vec!["device_id".into(), TIME.into()];
    let schema = TableSchema { arrow: batch(&[]).schema(), declared: 0..0, stats };
    let mut writer = FileWriter::new(Vec::new(), &schema, &[]).unwrap();
    for rows in groups {
        writer.write(&batch(rows)).unwrap();
        writer.end_row_group().unwrap();
    }
    let (bytes, stats) = writer.finish().unwrap();
    let file = DataFile {
        path: "f.parquet".into(),
        size: bytes.len() as u64,
        date: layout::date_from_days(DAY as i32),
        modified_ms: 0,
        stats,
        ranges: vec![OffsetRange { partition: 0, start: 0, end: 100 }],
        sorted_by: Vec::new(),
    };
    (file, bytes)
}

/// The row groups that are read of a file.
fn row_groups(predicate: &Predicate, file: &DataFile, bytes: Vec<u8>) -> Vec<usize> {
    let store = Arc::new(InMemory::new());
    futures::executor::block_on(async {
        store.put(&Path::from("f"), bytes.into()).await.unwrap();
        let input = Input::open(store as Arc<dyn ObjectStore>, Path::from("f"), "f", file.size).await.unwrap();
        prune::row_groups(predicate, file, &input).await.unwrap()
    })
}

proptest! {
    #[test]
    fn a_clause_means_the_rows_that_a_naive_reading_finds(
        (conditions, written) in conditions(),
        rows in proptest::collection::vec(row(), 0..20),
    ) {
        let predicate: Predicate = written.parse().unwrap();
        let meant = predicate.matches(&batch(&rows), layout::date_from_days(DAY as i32));
        let naive: Vec<bool> = rows.iter().map(|row| conditions.iter().all(|one| one.holds(row))).collect();
        prop_assert_eq!(meant.iter().collect::<Vec<_>>(), naive, "{}", written);
    }

    #[test]
    fn neither_a_file_nor_a_row_group_with_such_rows_is_passed_over(
        (conditions, written) in conditions(),
        groups in proptest::collection::vec(proptest::collection::vec(row(), 1..5), 1..4),
    ) {
        let predicate: Predicate = written.parse().unwrap();
        let (file, bytes) = file(&groups);
        let read = row_groups(&predicate, &file, bytes);
        for (number, rows) in groups.iter().enumerate() {
            if rows.iter().any(|row| conditions.iter().all(|one| one.holds(row))) {
                prop_assert!(prune::may_hold(&predicate, &file), "{}", written);
                prop_assert!(read.contains(&number), "{}", written);
            }
        }
    }
}

fn parse(written: &str) -> Predicate {
    written.parse().unwrap_or_else(|refused| panic!("{written}: {refused}"))
}

/// The same conditions, however they are written.
fn same(one: &str, other: &str) {
    let (one, other) = (parse(one), parse(other));
    assert_eq!((&one.texts, &one.time, &one.date), (&other.texts, &other.time, &other.date));
}

#[test]
fn what_is_meant_may_be_written_in_several_ways() {
    same("device_id = 'x'", r#"  'x' = (("device_id"))  "#);
    same("device_id = 'x'", "DEVICE_ID in ('x', 'x')");
    same("id = 'a' OR (id = 'b' OR id IN ('c', 'd'))", "id IN ('a', 'b', 'c', 'd')");
    same("type = 'a' AND (type = 'a' OR type = 'b')", "type = 'a'");
    same("time >= '2026-11-22'", "TIMESTAMP '2026-11-22T01:00:00+01:00' <= time");
    same("time < '2026-11-22 08:00:00.5Z'", "time < TIMESTAMP WITH TIME ZONE '2026-11-22T08:00:00.500000Z'");
    same("time >= '2026-11-22' AND time <= DATE '2026-11-23'", "time BETWEEN '2026-11-22' AND '2026-11-23'");
    same("date > '2026-11-21' AND date < '2026-11-24'", "date BETWEEN DATE '2026-11-22' AND '2026-11-23'");
    same("date >= '2026-11-22' AND '2026-11-22' >= date", "date = '2026-11-22'");
}

#[test]
fn whatever_else_is_refused_and_told_what_is_possible() {
    for wrong in [
        "",
        "device_id",
        "'x'",
        "true",
        "1 = 1",
        "'x' = 'x'",
        "device_id = id",
        "device_id = x",
        "device_id = \"x\"",
        "device_id = 1",
        "device_id = NULL",
        "device_id IN ('x', NULL)",
        "device_id IN ()",
        "device_id IN (SELECT 'x')",
        "device_id NOT IN ('x')",
        "device_id <> 'x'",
        "device_id < 'x'",
        "device_id BETWEEN 'a' AND 'b'",
        "device_id LIKE 'x%'",
        "device_id IS NULL",
        "NOT device_id = 'x'",
        "lower(device_id) = 'x'",
        "device_id = 'x' OR id = 'x'",
        "device_id = 'x' OR time > '2026-11-22'",
        "device_id = 'x' OR device_id = 'y' AND id = 'z'",
        "time > '2026-11-22' OR time < '2026-11-20'",
        "events.device_id = 'x'",
        "temp = '1'",
        "received_at < '2026-11-22'",
        "time < '2026-11-22T08:00:00'",
        "time < '2026-11-22T08:00:00.0000001Z'",
        "time < 1795000000",
        "time < 'yesterday'",
        "time < now()",
        "time NOT BETWEEN '2026-11-22' AND '2026-11-23'",
        "time IN ('2026-11-22')",
        "time < DATE '2026-11-22T08:00:00Z'",
        "time < TIME '08:00:00'",
        "date = '2026-11-22T08:00:00Z'",
        "date = TIMESTAMP '2026-11-22'",
        "date = '2026-02-30'",
        "date <> '2026-11-22'",
        "device_id = 'x' -- AND id = 'y'",
        "device_id = 'x' /* AND id = 'y' */",
        "device_id = 'x'; DROP TABLE events",
        "device_id = 'x' id = 'y'",
        "device_id = 'x",
        "device_id = E'x'",
        "device_id = 'x' 'y'",
        "device_id = ANY('x')",
        "(device_id, id) = ('x', 'y')",
    ] {
        let refused = wrong.parse::<Predicate>().expect_err(wrong).to_string();
        assert!(refused.contains("; possible are conditions joined by AND") && !refused.contains('\n'), "{refused}");
    }
}

#[test]
fn what_is_told_of_a_clause_has_an_end() {
    assert_eq!((cut("aüü", 5), cut("aüü", 4)), ("aüü".to_owned(), "aü… (5 bytes)".to_owned()));
    let list = (0..100_000).map(|number| format!("'ü{number}'")).collect::<Vec<_>>().join(", ");
    let predicate = parse(&format!("id IN ({list})"));
    assert_eq!(predicate.texts["id"].len(), 100_000);
    let written = predicate.written();
    assert!(written.starts_with("id IN ('ü0', 'ü1'") && written.len() < 1_100 && written.ends_with(" bytes)"));
    for wrong in [format!("id NOT IN ({list})"), format!("id IN ({list}) x"), format!("id = ({list})")] {
        let refused = wrong.parse::<Predicate>().unwrap_err().to_string();
        assert!(refused.len() < 600, "{} bytes", refused.len());
    }
    let refused = "where id = 'x'".parse::<Predicate>().unwrap_err().to_string();
    assert!(refused.starts_with("the condition begins after the word WHERE;"), "{refused}");
}

#[test]
fn a_clause_of_thousands_of_conditions_is_read() {
    let one = |number: usize| format!("id = 'e{number}'");
    let long = (0..10_000).map(one).collect::<Vec<_>>().join(" OR ");
    assert_eq!(parse(&long).texts["id"].len(), 10_000);
    let long = (0..10_000).map(one).collect::<Vec<_>>().join(" AND ");
    assert!(parse(&long).texts["id"].is_empty());
    let deep = format!("{}id = 'a'{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(deep.parse::<Predicate>().is_err());
}

#[test]
fn row_groups_are_passed_over_by_their_bounds_and_by_their_bloom_filters() {
    let row =
        |device: &str, id: &str, time| Row { texts: [Some(device.into()), Some(id.into()), None], time: Some(time) };
    // By its bounds either group might have the id `m`.
    let groups =
        [vec![row("a", "a", 0), row("b", "z", 5)], vec![row("b", "b", 10), row("c", "m", 20), row("d", "y", 30)]];
    let (file, bytes) = file(&groups);
    for (clause, read) in [
        ("id = 'm'", vec![1]),
        ("id IN ('z', 'm')", vec![0, 1]),
        ("id = 'q'", vec![]),
        ("device_id = 'a'", vec![0]),
        ("device_id = 'b'", vec![0, 1]),
        ("time > '2024-10-04T00:00:00.000020Z'", vec![1]),
    ] {
        assert_eq!(row_groups(&parse(clause), &file, bytes.clone()), read, "{clause}");
    }
}

#[test]
fn a_file_of_another_writer_is_read_whatever_its_statistics_say() {
    let row = Row { texts: [Some("a".into()), None, None], time: Some(0) };
    let (mut file, _) = file(&[vec![row]]);
    assert!(!prune::may_hold(&parse("device_id = 'x'"), &file));
    assert!(!prune::may_hold(&parse("time < '2000-01-01'"), &file));
    file.ranges.clear();
    assert!(prune::may_hold(&parse("device_id = 'x'"), &file));
    assert!(prune::may_hold(&parse("time < '2000-01-01'"), &file));
    assert!(!prune::may_hold(&parse("date < '2000-01-01'"), &file));
}
