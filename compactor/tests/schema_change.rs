//! Files of several configurations become one, with the table's columns, whatever the compactor was told of them.

mod foreign;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytesize::ByteSize;
use compactor::merge::{Budget, Settings, merge};
use compactor::plan::MergeJob;
use compactor::swap::{Swapped, swap};
use compactor::verify::verify;
use compactor::view::View;
use compactor::worker::{Turn, Worker};
use compactor::{Config, Deps};
use lake::batch::{EventColumns, RowMeta, RowPlan};
use lake::dataset::{Dataset, DatasetSpec};
use lake::event::Event;
use lake::parquet::FileWriter;
use lake::table::now_ms;
use lake::{Change, DataFile, Keep, Lake, OffsetRange, Outcome, Table, layout, schema, sort, store};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// As a dataset was declared at first, later, and after somebody took a column out again.
const FIRST: &str = r#"{"columns":{"n":{"type":"int","stats":true}},"sort_by":["device_id","time"]}"#;
const LATER: &str = r#"{"columns":{"x":{"type":"string","stats":true},"n":{"type":"long","stats":true},"flag":"boolean"},
    "sort_by":["n","x","time"]}"#;
const FEWER: &str = r#"{"columns":{"flag":"boolean"},"sort_by":["flag","device_id","time"]}"#;
const ALL: [&str; 3] = [FIRST, LATER, FEWER];

fn dataset(spec: &str) -> Dataset {
    Dataset::new("events", serde_json::from_str::<DatasetSpec>(spec).unwrap()).unwrap()
}

fn lake() -> (tempfile::TempDir, Lake) {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    (directory, lake)
}

/// A processor of one configuration: what it knows of the table is of when it started.
struct Writer {
    table: Table,
    plan: Arc<RowPlan>,
    sort_by: Vec<String>,
}

impl Writer {
    async fn start(lake: &Lake, spec: &str) -> Writer {
        let dataset = dataset(spec);
        let table = Table::open_or_create(lake, "events", schema::events(&dataset)).await.unwrap();
        Writer::new(table, dataset)
    }

    /// One that does not tell the table of its columns.
    async fn stranger(lake: &Lake, spec: &str) -> Writer {
        let dataset = dataset(spec);
        let table = Table::open(lake, "events", schema::events(&dataset)).await.unwrap();
        Writer::new(table.unwrap(), dataset)
    }

    fn new(table: Table, dataset: Dataset) -> Writer {
        let dataset = table.schema().typed(dataset);
        Writer { table, plan: Arc::new(RowPlan::new(&dataset)), sort_by: dataset.spec.sort_by }
    }

    /// Uploads a fragment with these `data` of events, from `offset` on.
    async fn write(&self, data: &[String], offset: i64) -> DataFile {
        let mut rows = EventColumns::new(Arc::clone(&self.plan));
        for (offset, data) in (offset..).zip(data) {
            let json = format!(r#"{{"device_id":"d{}","id":"{offset}","data":{data}}}"#, offset % 3);
            let event = Event::parse(json.as_bytes()).unwrap();
            rows.push(&event, RowMeta { partition: 0, offset, received_at: offset % 5, id: "" });
        }
        let (rows, order) = (rows.finish(), sort::order(&self.sort_by));
        let (date, indices): (_, UInt32Array) = sort::by_date(&rows, "time", &order).unwrap().swap_remove(0);
        let mut writer = FileWriter::new(Vec::new(), self.table.schema(), &order).unwrap();
        writer.write(&take_record_batch(&rows, &indices).unwrap()).unwrap();
        let (bytes, stats) = writer.finish().unwrap();
        let ranges = vec![OffsetRange { partition: 0, start: offset, end: offset + data.len() as i64 }];
        let path = layout::fragment_path("events", date, &ranges, Uuid::new_v4());
        store::put_new(self.table.store().as_ref(), &self.table.file_path(&path), bytes.clone().into()).await.unwrap();
        let size = bytes.len() as u64;
        DataFile { path, size, date, modified_ms: now_ms(), stats, ranges, sorted_by: order }
    }

    async fn append(&self, data: &[String], offset: i64) {
        let adds = vec![self.write(data, offset).await];
        let change = Change { operation: "STREAMING UPDATE", adds, data_change: true, ..Change::default() };
        let mut state = self.table.load(Keep::Txns, &[]).await.unwrap();
        while self.table.commit(&mut state, &change).await.unwrap() == Outcome::Conflict {}
    }
}

fn worker(lake: &Lake, spec: &str) -> Worker {
    let config = Config { cold_after: Duration::ZERO, ..Config::default() };
    let deps = Deps { lake: lake.clone(), datasets: vec![dataset(spec)], memory: ByteSize::mib(64) };
    compactor::workers(&config, &deps).swap_remove(0)
}

async fn turn(worker: &mut Worker) -> Turn {
    worker.turn(&CancellationToken::new()).await.unwrap()
}

/// A row as text, by column; null where its file lacks the column.
type Row = BTreeMap<String, String>;

/// All rows by offset, as a reader of the table has them: in its columns, with its types.
async fn rows(table: &Table) -> BTreeMap<String, Row> {
    let state = table.load(Keep::Files, &[]).await.unwrap();
    let columns = Arc::clone(&table.at(&state).unwrap().schema().arrow);
    let mut rows = BTreeMap::new();
    for file in state.files().values() {
        for row in file_rows(&physical(table, file).await, &columns) {
            let doubled = rows.insert(row["kafka_offset"].clone(), row);
            assert!(doubled.is_none(), "{doubled:?}");
        }
    }
    rows
}

async fn physical(table: &Table, file: &DataFile) -> RecordBatch {
    let bytes = store::get(table.store().as_ref(), &table.file_path(&file.path)).await.unwrap().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn file_rows(batch: &RecordBatch, columns: &SchemaRef) -> Vec<Row> {
    let text = |name: &str, kind: &DataType, row: usize| {
        let Some(column) = batch.column_by_name(name).filter(|column| column.is_valid(row)) else {
            return "-".to_owned();
        };
        let column = cast(column, kind).unwrap();
        ArrayFormatter::try_new(&column, &FormatOptions::default()).unwrap().value(row).to_string()
    };
    let row = |row| columns.fields().iter().map(|f| (f.name().clone(), text(f.name(), f.data_type(), row))).collect();
    (0..batch.num_rows()).map(row).collect()
}

/// What devices send: numbers that are ints, longs or neither, and members that some configurations do not know.
fn data() -> impl Strategy<Value = String> {
    let n = prop_oneof![Just("7"), Just("-1"), Just("3000000000"), Just("1.5"), Just("null")];
    let x = prop_oneof![Just("\"a\""), Just("\"b\""), Just("5")];
    (n, x, any::<bool>()).prop_map(|(n, x, flag)| format!(r#"{{"n":{n},"x":{x},"flag":{flag}}}"#))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whoever_wrote_and_whoever_merges_the_rows_stay_and_the_columns_are_the_tables(
        // Who starts, and who of those that were started writes what.
        starts in proptest::sample::subsequence(vec![0, 1, 2], 1..=3).prop_shuffle(),
        fragments in proptest::collection::vec((any::<prop::sample::Index>(), proptest::collection::vec(data(), 1..8)), 2..7),
        compactor in 0..3usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_directory, lake) = lake();
            let (mut writers, mut offset) = (Vec::new(), 0);
            for (number, (writer, data)) in fragments.iter().enumerate() {
                if let Some(start) = starts.get(number) {
                    writers.push(Writer::start(&lake, ALL[*start]).await);
                }
                writer.get(&writers).append(data, offset).await;
                offset += data.len() as i64;
            }
            let table = &writers[0].table;
            let before = rows(table).await;
            assert_eq!(before.len() as i64, offset);

            let turn = turn(&mut worker(&lake, ALL[compactor])).await;
            assert_eq!((turn.merges, turn.failed), (1, 0));
            assert_eq!(rows(table).await, before);
            let state = table.load(Keep::Files, &[]).await.unwrap();
            let own = table.at(&state).unwrap();
            let file = state.files().values().next().unwrap();
            assert_eq!(physical(table, file).await.schema().fields(), own.schema().arrow.fields());
            let with_stats: Vec<&String> = file.stats.nulls.keys().collect();
            assert!(own.schema().stats.iter().all(|name| with_stats.contains(&name)), "{with_stats:?}");
        });
    }
}

fn texts(data: &[&str]) -> Vec<String> {
    data.iter().map(|text| text.to_string()).collect()
}

#[tokio::test]
async fn a_running_compactor_of_the_first_configuration_keeps_columns_that_came_later() {
    let (_directory, lake) = lake();
    let first = Writer::start(&lake, FIRST).await;
    let mut compactor = worker(&lake, FIRST);
    first.append(&texts(&[r#"{"n":1,"x":"early"}"#]), 0).await;
    first.append(&texts(&[r#"{"n":2}"#]), 1).await;
    assert_eq!(turn(&mut compactor).await.merges, 1);

    let later = Writer::start(&lake, LATER).await;
    later.append(&texts(&[r#"{"n":3000000000,"x":"late","flag":true}"#]), 2).await;
    first.append(&texts(&[r#"{"n":3000000000,"x":"old"}"#]), 3).await;
    let before = rows(&first.table).await;
    assert_eq!(turn(&mut compactor).await, Turn { merges: 1, ..Turn::default() });
    let after = rows(&first.table).await;
    assert_eq!(after, before);
    let row = |offset: &str| ["n", "x", "flag", "data"].map(|name| after[offset][name].clone());
    assert_eq!(row("0"), ["1", "-", "-", r#"{"x":"early"}"#]);
    assert_eq!(row("2"), ["3000000000", "late", "true", "-"]);
    // The old processor knows neither the wide type nor the column: its values are in `data`.
    assert_eq!(row("3"), ["-", "-", "-", r#"{"n":3000000000,"x":"old"}"#]);
}

#[tokio::test]
async fn a_merge_from_before_a_change_of_columns_is_committed_after_it_and_loses_nothing() {
    let (_directory, lake) = lake();
    let first = Writer::start(&lake, FIRST).await;
    for offset in 0..2 {
        first.append(&texts(&[r#"{"n":1,"x":"early"}"#]), offset).await;
    }
    let mut view = View::load(&first.table).await.unwrap();
    let inputs: Vec<_> = view.state.files().values().cloned().collect();
    let job = MergeJob { date: inputs[0].date, inputs };
    let settings = Settings {
        sort_by: dataset(FIRST).spec.sort_by,
        budget: Budget::new(ByteSize::mib(64)),
        segment_bytes: 128 << 20,
        distrusted: HashSet::new(),
    };
    let table = first.table.at(&view.state).unwrap();
    let merged = merge(&table, &job, &settings, &CancellationToken::new()).await.unwrap();
    verify(&table, &merged).await.unwrap();

    let later = Writer::start(&lake, LATER).await;
    later.append(&texts(&[r#"{"n":3000000000,"x":"late"}"#]), 2).await;
    let before = rows(&later.table).await;
    assert_eq!(swap(&table, &mut view, &merged).await.unwrap(), Swapped::Committed);
    assert_eq!(rows(&later.table).await, before);
    assert_eq!(turn(&mut worker(&lake, LATER)).await.merges, 1);
    assert_eq!(rows(&later.table).await, before);
}

#[tokio::test]
async fn a_file_with_more_or_wider_columns_than_the_table_is_never_merged() {
    for (own, strange) in [
        (r#"{"n":"int"}"#, r#"{"n":"int","x":"string"}"#),
        (r#"{"n":"int"}"#, r#"{"n":"long"}"#),
        (r#"{"n":"float"}"#, r#"{"n":"double"}"#),
    ] {
        let (own, strange) = (format!(r#"{{"columns":{own}}}"#), format!(r#"{{"columns":{strange}}}"#));
        let (_directory, lake) = lake();
        let writer = Writer::start(&lake, &own).await;
        for offset in 0..2 {
            writer.append(&texts(&[r#"{"n":1,"x":"x"}"#]), offset).await;
        }
        // No processor does this: it makes the table have its columns first.
        Writer::stranger(&lake, &strange).await.append(&texts(&[r#"{"n":1,"x":"x"}"#]), 2).await;
        let before = writer.table.load(Keep::Files, &[]).await.unwrap();
        let mut compactor = worker(&lake, &own);
        assert_eq!(turn(&mut compactor).await, Turn { failed: 1, ..Turn::default() });
        assert_eq!(writer.table.load(Keep::Files, &[]).await.unwrap().files(), before.files());
        // The others are not kept waiting for it.
        assert_eq!(turn(&mut compactor).await, Turn { merges: 1, ..Turn::default() });
    }
}
