//! Files that random ones do not come to: times as Spark and Hive have written them, a great many rows of one event, places
//! that say nothing, and files that are not even Parquet.

use super::super::{FIRST, turn, worker};
use super::*;
use arrow::array::{BinaryArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, FieldRef, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use parquet::data_type::{Int96, Int96Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

async fn table(lake: &lake::Lake, sort_by: &[&str]) -> Table {
    Table::open_or_create(lake, "events", schema::events(&declared(sort_by))).await.unwrap()
}

/// Rows with these names and places alone.
fn named(table: &Table, rows: &[(&str, &str, Option<i32>, i64)]) -> RecordBatch {
    let column = |field: &FieldRef| -> ArrayRef {
        match field.name().as_str() {
            "device_id" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
            "id" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
            "kafka_partition" => Arc::new(Int32Array::from_iter(rows.iter().map(|row| row.2))),
            "kafka_offset" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
            _ => new_null_array(field.data_type(), rows.len()),
        }
    };
    let arrow = &table.schema().arrow;
    RecordBatch::try_new(Arc::clone(arrow), arrow.fields().iter().map(column).collect()).unwrap()
}

async fn append_rows(table: &Table, rows: &RecordBatch) {
    let mut writer = lake::parquet::FileWriter::new(Vec::new(), table.schema(), &[]).unwrap();
    writer.write(rows).unwrap();
    append(table, writer.finish().unwrap().0.into(), rows, true, Vec::new()).await;
}

/// A file with nothing but `time`, as days of the Julian calendar and nanoseconds.
fn int96(times: &[Int96]) -> Bytes {
    let schema = Arc::new(parse_message_type("message spark_schema { optional int96 time; }").unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int96Type>().write_batch(times, Some(&vec![1; times.len()]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap().into()
}

#[tokio::test]
async fn times_of_ninety_six_bits_are_those_that_were_written_however_far_away() {
    // Microseconds of 1582, 1969, 2024 and 9999.
    let micros = [-12_219_292_800_000_000, -1, 1_728_000_000_000_001, 253_402_300_799_999_999i64];
    let time = |micros: &i64| {
        const DAY_MICROS: i64 = 86_400_000_000;
        let (day, nanos) = (micros.div_euclid(DAY_MICROS) + 2_440_588, micros.rem_euclid(DAY_MICROS) * 1_000);
        let mut time = Int96::new();
        time.set_data(nanos as u32, (nanos >> 32) as u32, day as u32);
        time
    };
    let (_directory, lake) = lake();
    let table = table(&lake, &["time"]).await;
    for times in [&micros[..2], &micros[2..]] {
        let rows = named(&table, &[("", "", None, 0); 2]);
        append(&table, int96(&times.iter().map(time).collect::<Vec<_>>()), &rows, false, Vec::new()).await;
    }
    merge_all(&table, &["time"], 0).await;
    let merged = live(&table).await.swap_remove(0);
    let times = merged.column_by_name("time").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &micros);
}

#[tokio::test]
async fn rows_of_different_events_that_claim_the_same_place_all_stay() {
    let (_directory, lake) = lake();
    let table = table(&lake, &["device_id"]).await;
    append_rows(&table, &named(&table, &[("d", "x", Some(0), 5), ("d", "v", Some(0), 6)])).await;
    // As somebody fills in rows from elsewhere, one of which is there already.
    let filled_in = [("d", "x", Some(9), 0), ("d", "y", Some(9), 0), ("d", "z", Some(9), 0)];
    append_rows(&table, &named(&table, &filled_in)).await;
    merge_all(&table, &["device_id"], 0).await;
    let merged = live(&table).await.swap_remove(0);
    let ids: Vec<&str> = merged.column_by_name("id").unwrap().as_string::<i32>().iter().flatten().collect();
    for id in ["v", "x", "y", "z"] {
        assert!(ids.contains(&id), "{id} is not in {ids:?}");
    }
}

#[tokio::test]
async fn a_great_many_copies_of_one_event_become_one_row_and_as_many_events_of_one_key_all_stay() {
    const ROWS: i64 = 150_000;
    let (_directory, lake) = lake();
    let table = table(&lake, &["device_id", "time"]).await;
    let ids: Vec<String> =
        (0..2 * ROWS).map(|row| if row % 2 == 0 { "same".into() } else { row.to_string() }).collect();
    for half in [0..ROWS, ROWS..2 * ROWS] {
        let rows: Vec<_> = half.map(|row| ("d", ids[row as usize].as_str(), Some(0), row)).collect();
        append_rows(&table, &named(&table, &rows)).await;
    }
    let merged = merge_all(&table, &["device_id", "time"], 0).await;
    assert_eq!((merged.rows_in, merged.duplicates), (2 * ROWS as u64, ROWS as u64 - 1));
    let merged = live(&table).await.swap_remove(0);
    let ids = merged.column_by_name("id").unwrap().as_string::<i32>();
    assert_eq!(ids.iter().filter(|id| *id == Some("same")).count(), 1);
}

#[tokio::test]
async fn dead_letters_keep_every_byte_whatever_kind_of_bytes_a_file_has() {
    let (_directory, lake) = lake();
    let table = Table::open_or_create(&lake, "events__dead", schema::dead()).await.unwrap();
    let letter = |offset: i64| match offset % 4 {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(b"{\"temp\": 1".to_vec()),
        _ => Some((0..=255u8).rev().collect()),
    };
    let mut all = Vec::new();
    for (file, kind) in [DataType::Binary, DataType::LargeBinary, DataType::BinaryView].into_iter().enumerate() {
        const ROWS: usize = 20;
        let offsets = (0..ROWS as i64).map(|row| row * 3 + file as i64);
        let column = |field: &FieldRef| -> ArrayRef {
            match field.name().as_str() {
                "key" | "payload" => Arc::new(BinaryArray::from_iter(offsets.clone().map(letter))),
                "kafka_partition" => {
                    Arc::new(Int32Array::from_iter_values(offsets.clone().map(|offset| offset as i32 % 2)))
                }
                "kafka_offset" => Arc::new(Int64Array::from_iter_values(offsets.clone())),
                _ => new_null_array(field.data_type(), ROWS),
            }
        };
        let arrow = &table.schema().arrow;
        let rows = RecordBatch::try_new(Arc::clone(arrow), arrow.fields().iter().map(column).collect()).unwrap();
        let foreign = rows.columns().iter().zip(arrow.fields()).map(|(column, field)| match field.data_type() {
            DataType::Binary => (field.name(), cast(column, &kind).unwrap(), true),
            _ => (field.name(), Arc::clone(column), true),
        });
        let foreign = RecordBatch::try_from_iter_with_nullable(foreign).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), foreign.schema(), None).unwrap();
        writer.write(&foreign).unwrap();
        append(&table, writer.into_inner().unwrap().into(), &rows, true, Vec::new()).await;
        all.push(rows);
    }
    let merged = merge_all(&table, &["kafka_partition", "kafka_offset"], 0).await;
    assert_eq!((merged.rows_in, merged.duplicates), (60, 0));
    let all = concat_batches(&table.schema().arrow, &all).unwrap();
    assert_eq!(texts(&live(&table).await[0]), texts(&all));
}

/// What became of a file that the table has.
#[derive(Debug)]
enum Broken {
    Written(&'static str),
    Gone,
    CutOff,
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_set_aside_and_the_others_are_merged() {
    let written = ["", "PAR1", "PAR1PAR1", "<!DOCTYPE html><title>sign in</title>"].map(Broken::Written);
    for broken in written.into_iter().chain([Broken::Gone, Broken::CutOff]) {
        let (directory, lake) = lake();
        let table = Table::open_or_create(&lake, "events", schema::events(&dataset(FIRST))).await.unwrap();
        for offset in 0..4 {
            append_rows(&table, &named(&table, &[("d", "x", Some(0), offset)])).await;
        }
        let path = table.load(Keep::Files, &[]).await.unwrap().files().keys().next().unwrap().clone();
        let file = directory.path().join("events").join(path);
        match broken {
            Broken::Written(bytes) => append(&table, bytes.into(), &named(&table, &[]), false, Vec::new()).await,
            Broken::Gone => std::fs::remove_file(file).unwrap(),
            Broken::CutOff => std::fs::File::options().write(true).open(file).unwrap().set_len(100).unwrap(),
        }
        let mut worker = worker(&lake, FIRST);
        let first = turn(&mut worker).await;
        assert_eq!((first.failed, first.to_retry, first.merges), (1, 0, 0), "{broken:?}");
        assert_eq!(turn(&mut worker).await.merges, 1, "{broken:?}");
        assert_eq!(table.load(Keep::Files, &[]).await.unwrap().files().len(), 2, "{broken:?}");
    }
}
