//! Merging keeps every row, in the order and in the columns of the table.

mod support;

use compactor::merge::{Budget, MergeError, Merged, Settings, merge};
use compactor::plan::{MergeJob, Policy, plan};
use compactor::swap::{Swapped, swap};
use compactor::verify::verify;
use compactor::view::View;
use lake::testing::{Fault, Op, faulty_lake};
use lake::{DataFile, Lake, Table, layout, schema};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use support::*;
use tokio_util::sync::CancellationToken;

fn settings(sort_by: &[&str]) -> Settings {
    Settings {
        sort_by: sort_by.iter().map(|name| name.to_string()).collect(),
        budget: Budget::new(bytesize::ByteSize::mib(64)),
        segment_bytes: 128 << 20,
        distrusted: HashSet::new(),
    }
}

fn job(inputs: Vec<DataFile>) -> MergeJob {
    let inputs = inputs.into_iter().map(Arc::new).collect();
    MergeJob { date: layout::date_from_days(DAY as i32), inputs }
}

/// The only file of a merge that had no reason to write another.
fn only_file(merged: &Merged) -> &DataFile {
    let [file] = merged.files.as_slice() else { panic!("{} files", merged.files.len()) };
    file
}

async fn merge_and_verify(table: &Table, inputs: Vec<DataFile>, settings: &Settings) -> Result<Merged, MergeError> {
    let merged = merge(table, &job(inputs), settings, &CancellationToken::new()).await?;
    verify(table, &merged).await?;
    Ok(merged)
}

struct Fixture {
    _directory: tempfile::TempDir,
    table: Table,
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
    let table = table(&lake, &dataset(true, &["device_id", "time"])).await;
    Fixture { _directory: directory, table }
}

fn by(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[derive(Debug, Clone)]
struct Fragment {
    rows: Vec<Row>,
    /// Sorted as the table is now, as it was once, or not at all.
    sorting: usize,
    has_temp: bool,
}

/// Device, id, time, temp and partition.
type Drawn = (String, u8, i64, Option<f64>, i32);

fn fragments() -> impl Strategy<Value = Vec<Fragment>> {
    let row = ("[a-c]{1,2}", 0..5u8, 0..20i64, proptest::option::of(-1.0..1.0f64), 0..3i32);
    let fragment = (proptest::collection::vec(row, 1..30), 0..3usize, any::<bool>());
    proptest::collection::vec(fragment, 2..8).prop_map(|fragments| {
        let mut next = [0i64; 3];
        let fragment = |(rows, sorting, has_temp): (Vec<Drawn>, usize, bool)| {
            let rows = rows.into_iter().map(|(device, id, time, temp, partition)| {
                next[partition as usize] += 1;
                let (id, temp) = (id.to_string(), temp.filter(|_| has_temp));
                Row { device, id, time, temp, partition, offset: next[partition as usize] }
            });
            Fragment { rows: rows.collect(), sorting, has_temp }
        };
        fragments.into_iter().map(fragment).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_outputs_hold_the_rows_of_the_inputs_less_later_copies_in_order(
        fragments in fragments(),
        sort_by in proptest::sample::subsequence(vec!["device_id", "time", "temp"], 1..=3).prop_shuffle(),
        segment_bytes in prop_oneof![1_000..40_000u64, Just(128 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = fixture().await;
            let table = &fixture.table;
            let (current, old) = (by(&sort_by), by(&["time"]));
            let narrow = schema::events(&dataset(false, &[]));
            let mut files = Vec::new();
            for fragment in &fragments {
                let schema = if fragment.has_temp { table.schema() } else { &narrow };
                let sorting = [Some(&current), Some(&old), None][fragment.sorting];
                let sorting = sorting.filter(|sorting| fragment.has_temp || !sorting.contains(&"temp".to_owned()));
                files.push(write_fragment(table, schema, &fragment.rows, sorting.map(Vec::as_slice)).await);
            }

            let all: Vec<&Row> = fragments.iter().flat_map(|fragment| &fragment.rows).collect();
            let mut first: HashMap<(&str, &str), &Row> = HashMap::new();
            for row in &all {
                let kept = first.entry((&row.device, &row.id)).or_insert(row);
                if (row.partition, row.offset) < (kept.partition, kept.offset) {
                    *kept = row;
                }
            }
            let mut expected: Vec<Row> = first.values().map(|row| Row::clone(row)).collect();

            let stored = files.iter().map(|file| file.size).sum::<u64>();
            let settings = Settings { segment_bytes, ..settings(&sort_by) };
            let merged = merge_and_verify(table, files, &settings).await.unwrap();
            assert_eq!(merged.rows_in as usize, all.len());
            assert_eq!(merged.rows() + merged.duplicates, merged.rows_in);
            let mut outputs = Vec::new();
            for file in &merged.files {
                outputs.push(read_file(table, file).await);
            }
            expect_cuts(&outputs, sort_by[0], segment_bytes, stored / merged.rows_in);
            let mut rows = outputs.concat();
            let key = |row: &Row| {
                let columns = sort_by.iter().map(|name| match *name {
                    "device_id" => (row.device.clone(), 0, None),
                    "time" => (String::new(), row.time, None),
                    _ => (String::new(), 0, row.temp),
                });
                (columns.collect::<Vec<_>>(), row.partition, row.offset)
            };
            assert!(rows.is_sorted_by(|a, b| key(a) <= key(b)), "{rows:#?}");
            rows.sort_by_key(|row| (row.partition, row.offset));
            expected.sort_by_key(|row| (row.partition, row.offset));
            assert_eq!(rows, expected);
        });
    }
}

/// Bytes with which every file begins.
const MAGIC: u64 = 4;

/// Every file but the last is full, and the value that it ends with is not in the next, unless it has too many rows.
fn expect_cuts(outputs: &[Vec<Row>], column: &str, segment_bytes: u64, row_bytes: u64) {
    let value = |row: &Row| match column {
        "device_id" => format!("{:?}", row.device),
        "time" => format!("{:?}", row.time),
        _ => format!("{:?}", row.temp),
    };
    for (output, next) in outputs.iter().zip(&outputs[1..]) {
        assert!(output.len() as u64 * row_bytes + MAGIC >= segment_bytes, "{} rows of {row_bytes} bytes", output.len());
        let last = value(output.last().unwrap());
        if last == value(&next[0]) {
            let rows = output.iter().filter(|row| value(row) == last).count() as u64;
            assert!((rows + 1) * row_bytes >= segment_bytes / 10, "cut through {last} after {rows} rows");
        }
    }
    assert!(outputs.iter().all(|output| !output.is_empty()));
}

fn device_rows(fragment: i64, rows: i64) -> Vec<Row> {
    (0..rows).map(|row| Row::new(&format!("d{:03}", row % 50), row * 10 + fragment, 0, fragment * rows + row)).collect()
}

/// Requests are what a store like S3 charges for, and what a merge would wait for.
#[tokio::test]
async fn a_store_is_asked_once_for_each_input_however_often_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &dataset(true, &["device_id", "time"])).await;
    let mut inputs = Vec::new();
    for fragment in 0..3 {
        // The last is sorted first, and the search for copies comes before the merge.
        let sorting = (fragment < 2).then(|| by(&["device_id", "time"]));
        inputs.push(write_fragment(&table, table.schema(), &device_rows(fragment, 40_000), sorting.as_deref()).await);
    }
    assert!(inputs.iter().all(|input| input.size > 100 << 10), "{inputs:?}");
    let asked_before = faults.calls(Op::Get);
    let settings = settings(&["device_id", "time"]);
    let merged = merge(&table, &job(inputs), &settings, &CancellationToken::new()).await.unwrap();
    assert_eq!(faults.calls(Op::Get) - asked_before, merged.inputs.len());
    assert_eq!((merged.inputs.len(), merged.rows()), (3, 120_000));
}

#[tokio::test]
async fn a_file_that_is_not_in_the_order_it_claims_fails_the_merge_and_is_sorted_in_the_next() {
    let fixture = fixture().await;
    let sort_by = ["device_id", "time"];
    let good = write_fragment(&fixture.table, fixture.table.schema(), &device_rows(0, 100), Some(&by(&sort_by))).await;
    let mut bad = write_fragment(&fixture.table, fixture.table.schema(), &device_rows(1, 100), None).await;
    bad.sorted_by = by(&sort_by);
    let mut settings = settings(&sort_by);
    match merge_and_verify(&fixture.table, vec![good.clone(), bad.clone()], &settings).await {
        Err(MergeError::Unsorted { path }) => assert_eq!(path, bad.path),
        other => panic!("{other:?}"),
    }
    settings.distrusted.insert(bad.path.clone());
    let merged = merge_and_verify(&fixture.table, vec![good, bad], &settings).await.unwrap();
    assert_eq!((merged.rows_in, merged.duplicates, merged.inputs.len()), (200, 0, 2));
}

#[tokio::test]
async fn takes_as_many_inputs_as_fit_in_memory_and_leaves_the_rest() {
    let fixture = fixture().await;
    let sort_by = ["device_id", "time"];
    let mut files = Vec::new();
    for fragment in 0..160 {
        let rows = device_rows(fragment, 5_000);
        files.push(write_fragment(&fixture.table, fixture.table.schema(), &rows, Some(&by(&sort_by))).await);
    }
    let merged = merge_and_verify(&fixture.table, files, &settings(&sort_by)).await.unwrap();
    assert!((2..160).contains(&merged.inputs.len()), "{} inputs", merged.inputs.len());
    assert_eq!(only_file(&merged).rows(), merged.inputs.len() as u64 * 5_000);
    assert_eq!(only_file(&merged).ranges.len(), 1);
}

/// A cut that memory ends before its files get narrow would be planned again, and write the date anew each time.
#[tokio::test]
async fn large_files_of_which_too_few_fit_in_memory_are_left_as_they_are() {
    let fixture = fixture().await;
    let mut files = Vec::new();
    for fragment in 0..12 {
        // Not sorted, so that each takes memory for a run.
        files.push(write_fragment(&fixture.table, fixture.table.schema(), &device_rows(fragment, 100), None).await);
    }
    let size = files.iter().map(|file| file.size).min().unwrap();
    let with = |segment_bytes| Settings { segment_bytes, ..settings(&["device_id", "time"]) };
    let error = merge_and_verify(&fixture.table, files.clone(), &with(size * 2)).await.unwrap_err();
    assert!(matches!(error, MergeError::TooLarge), "{error}");
    // Enough of smaller segments fit, and small files are merged however few fit.
    for segment_bytes in [size, size * 3] {
        let merged = merge_and_verify(&fixture.table, files.clone(), &with(segment_bytes)).await.unwrap();
        assert!((5..12).contains(&merged.inputs.len()), "{} inputs", merged.inputs.len());
    }
}

#[tokio::test]
async fn a_merged_file_that_is_not_what_was_read_is_refused() {
    let fixture = fixture().await;
    let sort_by = ["device_id", "time"];
    let mut files = Vec::new();
    for fragment in 0..3 {
        let rows = device_rows(fragment, 100);
        files.push(write_fragment(&fixture.table, fixture.table.schema(), &rows, Some(&by(&sort_by))).await);
    }
    let merged = merge_and_verify(&fixture.table, files.clone(), &settings(&sort_by)).await.unwrap();
    // Another file with as many rows, and one of them another.
    let mut rows: Vec<Row> = (0..3).flat_map(|fragment| device_rows(fragment, 100)).collect();
    rows[7].temp = Some(-1.0);
    let other = write_fragment(&fixture.table, fixture.table.schema(), &rows, Some(&by(&sort_by))).await;
    let mut swapped = merged.clone();
    swapped.files = vec![DataFile { ranges: only_file(&merged).ranges.clone(), ..other }];
    let error = verify(&fixture.table, &swapped).await.unwrap_err();
    assert!(matches!(&error, MergeError::Different { difference, .. } if difference.contains("checksum")), "{error}");

    let fewer = write_fragment(&fixture.table, fixture.table.schema(), &rows[..299], Some(&by(&sort_by))).await;
    swapped.files = vec![fewer];
    assert!(verify(&fixture.table, &swapped).await.unwrap_err().to_string().contains("299 rows, not 300"));

    let mut elsewhere = merged.clone();
    elsewhere.files[0].ranges[0].end -= 1;
    assert!(verify(&fixture.table, &elsewhere).await.unwrap_err().to_string().contains("offset 299"));

    let mut torn = merged;
    torn.files[0].size -= 10;
    assert!(matches!(verify(&fixture.table, &torn).await, Err(MergeError::Read { .. })));
}

/// Larger than one part of an upload: ids do not compress.
async fn large_files(table: &Table, rows: i64) -> Vec<DataFile> {
    let mut files = Vec::new();
    for fragment in 0..2 {
        let mut rows = device_rows(fragment, rows);
        rows.iter_mut().for_each(|row| row.id = uuid::Uuid::new_v4().to_string());
        files.push(write_fragment(table, table.schema(), &rows, Some(&by(&["device_id", "time"]))).await);
    }
    files
}

#[tokio::test]
async fn a_large_file_is_stored_in_parts_and_a_part_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &dataset(true, &["device_id", "time"])).await;
    let files = large_files(&table, 150_000).await;
    let settings = settings(&["device_id", "time"]);
    for op in [Op::StartUpload, Op::PutPart, Op::CompleteUpload] {
        faults.fail_next(op, 1);
        let error = merge_and_verify(&table, files.clone(), &settings).await.unwrap_err();
        assert!(matches!(error, MergeError::Store { .. }) && error.is_retryable(), "{op:?}: {error}");
    }
    let date = layout::date_directory(layout::date_from_days(DAY as i32));
    let left = std::fs::read_dir(directory.path().join("events").join(date)).unwrap().count();
    assert_eq!(left, files.len());
    let merged = merge_and_verify(&table, files, &settings).await.unwrap();
    assert_eq!((only_file(&merged).rows(), merged.duplicates), (300_000, 0));
    assert!(faults.calls(Op::PutPart) >= 2, "{} bytes", merged.bytes_out());
}

/// Devices with as many rows each, whose ids do not compress: so many bytes that row groups are written on the way.
#[tokio::test]
async fn a_merge_larger_than_a_segment_writes_several_files_that_share_no_device() {
    let fixture = fixture().await;
    let files = large_files(&fixture.table, 75_000).await;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let settings = Settings { segment_bytes: bytes / 5, ..settings(&["device_id", "time"]) };
    let merged = merge_and_verify(&fixture.table, files, &settings).await.unwrap();
    assert_eq!((merged.rows(), merged.duplicates), (150_000, 0));
    assert!((4..=5).contains(&merged.files.len()), "{} files", merged.files.len());
    for (file, next) in merged.files.iter().zip(&merged.files[1..]) {
        assert!(file.stats.max["device_id"].as_str() < next.stats.min["device_id"].as_str());
        assert_eq!(file.ranges, next.ranges);
    }
    for file in &merged.files {
        let sizes = settings.segment_bytes / 2..settings.segment_bytes * 3 / 2;
        assert!(sizes.contains(&file.size), "{} bytes, segments of {}", file.size, settings.segment_bytes);
    }
    // The rows of a file that is forgotten are missed.
    let mut swapped = merged.clone();
    swapped.files.pop();
    assert!(matches!(verify(&fixture.table, &swapped).await, Err(MergeError::Different { .. })));
}

#[tokio::test]
async fn a_device_that_is_larger_than_a_segment_is_cut_through() {
    let fixture = fixture().await;
    let mut files = large_files(&fixture.table, 75_000).await;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    for (fragment, file) in files.iter_mut().enumerate() {
        let mut rows = device_rows(fragment as i64, 75_000);
        rows.iter_mut().for_each(|row| row.device = "one".to_owned());
        rows.iter_mut().for_each(|row| row.id = uuid::Uuid::new_v4().to_string());
        *file = write_fragment(&fixture.table, fixture.table.schema(), &rows, Some(&by(&["device_id", "time"]))).await;
    }
    let settings = Settings { segment_bytes: bytes / 4, ..settings(&["device_id", "time"]) };
    let merged = merge_and_verify(&fixture.table, files, &settings).await.unwrap();
    assert_eq!(merged.rows(), 150_000);
    assert!((3..=4).contains(&merged.files.len()), "{} files", merged.files.len());
    let sizes: Vec<u64> = merged.files.iter().map(|file| file.size).collect();
    assert!(sizes.iter().all(|size| *size < settings.segment_bytes * 3 / 2), "{sizes:?}");
}

#[tokio::test]
async fn a_merge_whose_second_file_fails_leaves_only_finished_ones_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (lake, faults) = faulty_lake(directory.path()).unwrap();
    let table = table(&lake, &dataset(true, &["device_id", "time"])).await;
    let files = large_files(&table, 75_000).await;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let settings = Settings { segment_bytes: bytes / 2, ..settings(&["device_id", "time"]) };
    let date = layout::date_directory(layout::date_from_days(DAY as i32));
    let left = || std::fs::read_dir(directory.path().join("events").join(&date)).unwrap().count();
    // The first passes, the second fails.
    faults.inject(Op::Put, "seg-", Fault::Delay(Duration::ZERO), 1);
    faults.inject(Op::Put, "seg-", Fault::Fail, 1);
    let error = merge_and_verify(&table, files.clone(), &settings).await.unwrap_err();
    assert!(matches!(error, MergeError::Store { .. }) && error.is_retryable(), "{error}");
    assert_eq!(left(), files.len() + 1);
    let merged = merge_and_verify(&table, files.clone(), &settings).await.unwrap();
    assert_eq!((merged.files.len(), left()), (2, files.len() + 3));
}

#[tokio::test]
async fn the_files_of_a_merge_come_into_the_table_together_and_once() {
    let fixture = fixture().await;
    let table = &fixture.table;
    let mut inputs = Vec::new();
    for fragment in 0..4 {
        let rows = device_rows(fragment, 500);
        inputs.push(write_fragment(table, table.schema(), &rows, Some(&by(&["device_id", "time"]))).await);
    }
    let mut view = View::load(table).await.unwrap();
    append(table, &mut view.state, inputs.clone()).await;
    let before = counts(&read(table, None).await);
    let bytes: u64 = inputs.iter().map(|file| file.size).sum();
    let settings = Settings { segment_bytes: bytes / 4, ..settings(&["device_id", "time"]) };
    let merged = merge_and_verify(table, inputs, &settings).await.unwrap();
    assert!(merged.files.len() >= 2, "{} files", merged.files.len());

    assert_eq!(swap(table, &mut view, &merged).await.unwrap(), Swapped::Committed);
    let version = view.state.version;
    // As after a commit whose answer was lost.
    assert_eq!(swap(table, &mut view, &merged).await.unwrap(), Swapped::Committed);
    assert_eq!((view.state.version, view.state.files().len()), (version, merged.files.len()));
    assert_eq!(counts(&read(table, None).await), before);
}

/// As `compactor::Config` has it.
fn policy(settings: &Settings) -> Policy {
    Policy {
        target_bytes: settings.segment_bytes,
        small_files: 2,
        min_files: 2,
        max_files: 128,
        max_rows: settings.budget.rows(),
        max_bytes: 16 * settings.segment_bytes,
        max_memory: settings.budget.inputs(),
        cold_after: Duration::ZERO,
        column: "device_id".to_owned(),
    }
}

/// What is planned and not merged is written again later, with what was.
#[tokio::test]
async fn what_is_planned_fits_into_memory_when_it_is_merged() {
    // Rows of a file, digits of an id, files that are a segment, files.
    let shapes =
        [(20, 16, 100, 300), (1_000, 48, 100, 140), (200, 4_000, 100, 90), (20_000, 48, 100, 6), (20_000, 48, 1, 6)];
    for (rows, digits, of_segment, files) in shapes {
        let fixture = fixture().await;
        let table = &fixture.table;
        let mut noise = 7_u64;
        let mut wide_rows = |fragment: i64| {
            let mut rows = device_rows(fragment, rows);
            for row in &mut rows {
                let words = std::iter::repeat_with(|| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    format!("{:016x}", noise)
                });
                row.id = row.id.clone() + &words.take(digits / 16).collect::<String>();
            }
            rows
        };
        let mut written = Vec::new();
        for fragment in 0..files {
            let rows = wide_rows(fragment);
            written.push(write_fragment(table, table.schema(), &rows, Some(&by(&["device_id", "time"]))).await);
        }
        let size = written[0].size;
        let budget = Budget::new(bytesize::ByteSize::mib(256));
        let settings = Settings { segment_bytes: size * of_segment, budget, ..settings(&["device_id", "time"]) };
        let written: Vec<Arc<DataFile>> = written.into_iter().map(Arc::new).collect();
        let jobs = plan(&written, i64::MAX, &policy(&settings));
        assert!(!jobs.is_empty(), "{files} files of {size} bytes");
        for job in jobs {
            let merged = merge(table, &job, &settings, &CancellationToken::new()).await.unwrap();
            let (planned, merged) = (job.inputs.len(), merged.inputs.len());
            println!("{files} files of {size} bytes, {rows} rows: {merged} of {planned}");
            assert_eq!(merged, planned, "of files of {size} bytes, {rows} rows");
        }
    }
}
