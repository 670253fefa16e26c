//! Files of other writers: whatever a Delta table may hold that no processor has written. Rows are merged as a reader of
//! the table sees them, and copies are left out.

mod odd;
mod writer;

use super::{dataset, lake};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use bytesize::ByteSize;
use compactor::merge::{Budget, MergeError, Merged, Settings, merge};
use compactor::plan::MergeJob;
use compactor::swap::{Swapped, swap};
use compactor::verify::verify;
use compactor::view::View;
use lake::dataset::Dataset;
use lake::schema::{self, TableSchema};
use lake::sort::{self, SortKeys};
use lake::stats::StatsCollector;
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, Outcome, Table, layout, store};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use writer::Writing;

/// Every type that a column may have, some with statistics.
const COLUMNS: &str = r#""i":"int", "l":{"type":"long","stats":true}, "f":{"type":"float","stats":true},
    "d":{"type":"double","stats":true}, "b":"boolean", "s":{"type":"string","stats":true}, "t":"timestamp""#;

const DAY: i32 = 20_000;

fn declared(sort_by: &[&str]) -> Dataset {
    dataset(&format!(r#"{{"columns":{{{COLUMNS}}},"sort_by":{sort_by:?}}}"#))
}

/// What a file says of the order of its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Claim {
    Nothing,
    True,
    /// They are in no order at all.
    False,
}

#[derive(Debug, Clone)]
struct File {
    rows: Vec<u64>,
    claim: Claim,
    /// Whether the table's log has its statistics.
    has_stats: bool,
    writing: Writing,
}

fn file() -> impl Strategy<Value = File> {
    let claim = prop_oneof![2 => Just(Claim::Nothing), 2 => Just(Claim::True), 1 => Just(Claim::False)];
    let rows = prop_oneof![1 => Just(Vec::new()), 8 => proptest::collection::vec(any::<u64>(), 1..40)];
    (rows, claim, any::<bool>(), writer::writing()).prop_map(|(rows, claim, has_stats, writing)| File {
        rows,
        claim,
        has_stats,
        writing,
    })
}

/// A value of a column, drawn from `seed`: few different ones, and the odd ones among them.
fn text(column: &str, seed: u64) -> Option<String> {
    let of = |texts: &[&str]| texts[seed as usize % texts.len()].to_owned();
    let text = match column {
        "device_id" => of(&["a", "b", "c", "\u{e9}"]),
        "id" => of(&["0", "1", "2", "3", "4", "5", "6", "7"]),
        "kafka_partition" => of(&["0", "1", "2"]),
        "i" => of(&["0", "-1", "2147483647", "-2147483648"]),
        "l" => of(&["0", "-1", "3", "9007199254740993", "-9223372036854775808"]),
        "f" => of(&["0.5", "-0.5", "0", "-0", "NaN", "inf"]),
        "d" => of(&["0.5", "-0.5", "0", "-0", "NaN", "-inf", "1e300"]),
        "b" => of(&["true", "false"]),
        "time" | "received_at" | "t" => {
            of(&["1969-12-31T23:59:59.999999Z", "2024-10-04T00:00:00.001Z", "2024-10-04T12:00:00Z"])
        }
        _ => of(&["", "a", "ab", "b", "\u{10ffff}", "a text that is longer than twelve bytes"]),
    };
    // The more columns are null, the more rows are alike.
    (seed >> 32 & 7 > 0).then_some(text)
}

/// The rows of a file as a reader of the table sees them. No two are of the same place.
fn rows(schema: &TableSchema, file: &File, first_offset: i64) -> RecordBatch {
    let column = |(number, field): (usize, &arrow::datatypes::FieldRef)| -> ArrayRef {
        if file.writing.lacks(field.name()) {
            return new_null_array(field.data_type(), file.rows.len());
        }
        let value = |(row, seed): (usize, &u64)| {
            let seed = seed.rotate_left(7 * number as u32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            match field.name().as_str() {
                "kafka_offset" => (seed >> 40 & 15 > 0).then(|| (first_offset + row as i64).to_string()),
                name => text(name, seed).map(|text| file.writing.fit(name, text)),
            }
        };
        let texts = arrow::array::StringArray::from_iter(file.rows.iter().enumerate().map(value));
        cast(&texts, field.data_type()).unwrap()
    };
    let columns = schema.arrow.fields().iter().enumerate().map(column).collect();
    RecordBatch::try_new(Arc::clone(&schema.arrow), columns).unwrap()
}

fn sorted(rows: &RecordBatch, order: &[String]) -> RecordBatch {
    let keys = SortKeys::new(rows.schema_ref(), order).unwrap().of(rows).unwrap();
    let mut indices: Vec<u32> = (0..rows.num_rows() as u32).collect();
    indices.sort_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
    take_record_batch(rows, &UInt32Array::from(indices)).unwrap()
}

/// Puts a file into the table.
async fn append(table: &Table, bytes: Bytes, rows: &RecordBatch, has_stats: bool, sorted_by: Vec<String>) {
    let date = layout::date_from_days(DAY);
    let path = format!("{}part-{}.parquet", layout::date_directory(date), Uuid::new_v4());
    let mut stats = StatsCollector::new(table.schema());
    stats.add(rows);
    let stats = if has_stats { stats.finish() } else { Default::default() };
    let size = bytes.len() as u64;
    store::put_new(table.store().as_ref(), &table.file_path(&path), bytes).await.unwrap();
    let file = DataFile { path, size, date, modified_ms: now_ms(), stats, ranges: Vec::new(), sorted_by };
    let change = Change { operation: "WRITE", adds: vec![file], data_change: true, ..Change::default() };
    let mut state = table.load(Keep::Txns, &[]).await.unwrap();
    assert_eq!(table.commit(&mut state, &change).await.unwrap(), Outcome::Committed);
}

/// All rows of the table, file by file.
async fn live(table: &Table) -> Vec<RecordBatch> {
    let state = table.load(Keep::Files, &[]).await.unwrap();
    let mut files = Vec::new();
    for path in state.files().keys() {
        let bytes = store::get(table.store().as_ref(), &table.file_path(path)).await.unwrap().unwrap();
        files.push(read(bytes));
    }
    files
}

fn read(bytes: Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let schema: SchemaRef = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Rows as text, however often there is each.
fn texts(rows: &RecordBatch) -> BTreeMap<String, usize> {
    let columns: Vec<ArrayFormatter> = rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &FormatOptions::default().with_null("-")).unwrap())
        .collect();
    let mut texts = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let text: Vec<String> = columns.iter().map(|column| format!("{:?}", column.value(row).to_string())).collect();
        *texts.entry(text.join(" ")).or_default() += 1;
    }
    texts
}

/// Those rows that are no later copies of others. Rows without a name or a place are copies of none.
fn without_copies(rows: &RecordBatch) -> RecordBatch {
    let text = |name: &str, row: usize| {
        let column = rows.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().nth(row).unwrap()
    };
    let places = (
        rows.column_by_name("kafka_partition").unwrap().as_primitive::<Int32Type>(),
        rows.column_by_name("kafka_offset").unwrap().as_primitive::<Int64Type>(),
    );
    let place = |row: usize| Some((places.0.iter().nth(row).unwrap()?, places.1.iter().nth(row).unwrap()?));
    let key = |row: usize| Some((text("device_id", row)?, text("id", row)?));
    let mut first = BTreeMap::new();
    for row in 0..rows.num_rows() {
        if let (Some(key), Some(place)) = (key(row), place(row)) {
            let kept = first.entry(key).or_insert(place);
            *kept = place.min(*kept);
        }
    }
    let stays = |row: &usize| match (key(*row), place(*row)) {
        (Some(key), Some(place)) => first[&key] == place,
        _ => true,
    };
    let stay: Vec<u32> = (0..rows.num_rows()).filter(stays).map(|row| row as u32).collect();
    take_record_batch(rows, &UInt32Array::from(stay)).unwrap()
}

/// Merges all files of the table, each of which may first be found out to lie about its order.
async fn merge_all(table: &Table, sort_by: &[&str], liars: usize) -> Merged {
    let mut view = View::load(table).await.unwrap();
    let inputs: Vec<_> = view.state.files().values().cloned().collect();
    let job = MergeJob { date: inputs[0].date, inputs };
    let budget = Budget::new(ByteSize::mib(64));
    let mut settings =
        Settings { sort_by: names(sort_by), budget, segment_bytes: 128 << 20, distrusted: HashSet::new() };
    loop {
        match merge(table, &job, &settings, &CancellationToken::new()).await {
            Ok(merged) => {
                verify(table, &merged).await.unwrap();
                assert_eq!(swap(table, &mut view, &merged).await.unwrap(), Swapped::Committed);
                return merged;
            }
            Err(MergeError::Unsorted { path }) => assert!(settings.distrusted.insert(path)),
            Err(error) => panic!("{:#}", anyhow::Error::from(error)),
        }
        assert!(settings.distrusted.len() <= liars);
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_table_holds_is_merged_as_a_reader_sees_it(
        files in proptest::collection::vec(file(), 2..6),
        sort_by in proptest::sample::subsequence(
            vec!["id", "device_id", "type", "time", "i", "l", "f", "d", "b", "s", "t", "data", "kafka_offset"], 0..=4,
        ).prop_shuffle(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_directory, lake) = lake();
            let dataset = declared(&sort_by);
            let table = Table::open_or_create(&lake, "events", schema::events(&dataset)).await.unwrap();
            let order = sort::order(&names(&sort_by));
            let (mut all, mut offset) = (Vec::new(), 0);
            for file in &files {
                let rows = rows(table.schema(), file, offset);
                offset += rows.num_rows() as i64;
                let rows = if file.claim == Claim::True { sorted(&rows, &order) } else { rows };
                let sorted_by = if file.claim == Claim::Nothing { Vec::new() } else { order.clone() };
                append(&table, file.writing.write(&rows), &rows, file.has_stats, sorted_by).await;
                all.push(rows);
            }
            let all = concat_batches(&table.schema().arrow, &all).unwrap();
            let liars = files.iter().filter(|file| file.claim == Claim::False).count();
            let dropped = merge_all(&table, &sort_by, liars).await.duplicates;

            let merged = live(&table).await;
            assert_eq!(merged.len(), usize::from(all.num_rows() > 0));
            for file in &merged {
                assert_eq!(file.schema().fields(), table.schema().arrow.fields());
                let keys = SortKeys::new(file.schema_ref(), &order).unwrap().of(file).unwrap();
                assert!((1..file.num_rows()).all(|row| keys.row(row - 1) <= keys.row(row)));
            }
            let merged = concat_batches(&table.schema().arrow, &merged).unwrap();
            assert_eq!(merged.num_rows() as u64 + dropped, all.num_rows() as u64);
            assert_eq!(texts(&merged), texts(&without_copies(&all)));
        });
    }
}
