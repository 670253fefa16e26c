mod table;
mod week;
mod shapes;

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;
use table::{DEVICES, Table, depth, file, ranged};

const MIB: u64 = 1 << 20;
const HOUR_MS: i64 = 3_600_000;
const ALL: (u64, u64) = (0, DEVICES - 1);

fn policy() -> Policy {
    Policy {
        target_bytes: 128 * MIB,
        small_files: 80,
        min_files: 4,
        max_files: 128,
        max_rows: 100_000_000,
        max_bytes: 16 * 128 * MIB,
        max_memory: 256 * MIB,
        cold_after: Duration::from_secs(3600),
        column: "device_id".to_owned(),
    }
}

fn sizes(jobs: &[MergeJob]) -> Vec<Vec<u64>> {
    jobs.iter().map(|job| job.inputs.iter().map(|file| file.size).collect()).collect()
}

fn files_of(sizes: &[u64]) -> Vec<Arc<DataFile>> {
    sizes.iter().enumerate().map(|(name, size)| file(name as u64, *size, 1, 0)).collect()
}

/// A date of `files` files, each of all devices.
fn overlapping(files: usize, size: u64) -> Table {
    let mut table = Table::new(1);
    (0..files).for_each(|_| table.append(size, ALL, 0));
    table
}

#[test]
fn waits_while_a_reader_meets_few_small_files_and_then_merges_those_of_which_there_are_most() {
    let few = [[10; 50].as_slice(), &[1_000; 24], &[MIB; 5]].concat();
    assert!(plan(&files_of(&few), 0, &policy()).is_empty());
    let enough = [few.as_slice(), &[MIB]].concat();
    assert_eq!(sizes(&plan(&files_of(&enough), 0, &policy())), [[10; 50]]);
    // The smaller ones come along: they skip a level for few bytes.
    let upper = [[10; 34].as_slice(), &[1_000; 40], &[MIB; 6]].concat();
    assert_eq!(sizes(&plan(&files_of(&upper), 0, &policy())), [&upper[..74]]);
}

#[test]
fn never_touches_a_good_file_for_its_size() {
    let files = files_of(&[64 * MIB, 100 * MIB, 200 * MIB, 64 * MIB]);
    assert!(plan(&files, 100 * HOUR_MS, &policy()).is_empty());
}

#[test]
fn a_cold_date_merges_what_is_left_over_but_not_a_large_file_for_crumbs() {
    let files = files_of(&[10, 20, 30 * MIB, 30]);
    assert!(plan(&files, HOUR_MS - 1, &policy()).is_empty());
    assert_eq!(sizes(&plan(&files, HOUR_MS, &policy())), [[10, 20, 30]]);
    assert!(plan(&files_of(&[10, 30 * MIB]), HOUR_MS, &policy()).is_empty());
}

#[test]
fn a_backlog_of_fragments_is_merged_in_bounded_jobs() {
    let inputs =
        |files: &[u64]| plan(&files_of(files), 0, &policy()).iter().map(|job| job.inputs.len()).collect::<Vec<_>>();
    assert_eq!(inputs(&[MIB / 100; 1000]), [128, 128, 128, 128, 128, 128, 128, 104]);
    // In memory, an input of 8 MiB takes 5.7 and one of 40 MiB takes 16.
    assert_eq!(inputs(&[8 * MIB; 100]), [44, 44, 12]);
    assert_eq!(inputs(&[40 * MIB; 100]), [16, 16, 16, 16, 16, 16, 4]);
}

#[test]
fn good_files_of_a_cold_date_that_overlap_deeply_are_cut_and_then_left_alone() {
    let mut table = overlapping(16, 128 * MIB);
    assert_eq!(table.round(HOUR_MS - 1, &policy()), 0);
    assert_eq!(depth(&table.files), 16);
    assert_eq!(table.round(HOUR_MS, &policy()), 1);
    assert_eq!((depth(&table.files), table.written), (1, 16 * 128 * MIB));
    assert!((15..=16).contains(&table.files.len()), "{} files", table.files.len());
    table.rest(HOUR_MS, &policy());
    assert_eq!(table.written, 16 * 128 * MIB);
}

#[test]
fn few_overlapping_files_are_left_as_they_are() {
    let mut table = overlapping(4, 128 * MIB);
    table.rest(0, &policy());
    assert_eq!(table.written, 0);
}

/// A job takes sixteen of the files: the depth falls by as much and no row is written twice.
#[test]
fn a_date_larger_than_any_job_is_cut_once() {
    for (files, size, most) in [(300, 64 * MIB, 24), (300, 128 * MIB, 24), (2_000, 128 * MIB, 130)] {
        let mut table = overlapping(files, size);
        table.rest(0, &policy());
        let (depth, written) = (depth(&table.files), table.written as f64 / table.bytes_in as f64);
        println!(
            "{files} files of {} MiB: depth {depth}, {} files, written {written:.2} times",
            size / MIB,
            table.files.len()
        );
        assert!(depth <= most, "{files} files: depth {depth}");
        assert!(written <= 1.0, "{files} files: written {written:.2} times");
    }
}

#[test]
fn a_job_too_small_to_make_narrow_files_is_not_worth_it() {
    let policy = Policy { max_bytes: 4 * 128 * MIB, ..policy() };
    let mut table = overlapping(100, 128 * MIB);
    table.rest(0, &policy);
    assert_eq!(table.written, 0);
}

/// Files of rows so large that memory has room for few of their row groups.
#[test]
fn files_of_large_rows_are_not_cut_by_jobs_that_memory_would_end_early() {
    let mut table = overlapping(100, 128 * MIB);
    for file in &mut table.files {
        Arc::make_mut(file).stats.rows = file.size / 600;
    }
    assert!(plan(&table.files, HOUR_MS, &policy()).is_empty());
    let policy = Policy { max_memory: 512 * MIB, ..policy() };
    let jobs = plan(&table.files, HOUR_MS, &policy);
    assert!(!jobs.is_empty() && jobs.iter().all(|job| (5..=6).contains(&job.inputs.len())), "{:?}", sizes(&jobs));
}

#[test]
fn files_of_one_device_and_files_without_statistics_are_left_alone() {
    let mut table = Table::new(1);
    (0..100).for_each(|_| table.append(128 * MIB, (7, 7), 0));
    table.rest(0, &policy());
    assert_eq!(table.written, 0);
    assert!(plan(&files_of(&[128 * MIB; 100]), HOUR_MS, &policy()).is_empty());
    let mut table = overlapping(100, 128 * MIB);
    table.rest(0, &Policy { column: "fw".to_owned(), ..policy() });
    assert_eq!(table.written, 0);
}

#[test]
fn nulls_come_first_and_numbers_and_texts_are_compared_as_such() {
    let with = |name: u64, nulls: u64, low: serde_json::Value, high: serde_json::Value| {
        let mut file = Arc::unwrap_or_clone(file(name, 128 * MIB, 1, 0));
        file.stats.nulls.insert("n".to_owned(), nulls.into());
        file.stats.min.insert("n".to_owned(), low);
        file.stats.max.insert("n".to_owned(), high);
        Arc::new(file)
    };
    let policy = Policy { column: "n".to_owned(), ..policy() };
    let jobs = |nulls: u64, numbers: &dyn Fn(u64) -> (i64, i64)| {
        let files = (0..20).map(|name| {
            let (low, high) = numbers(name);
            with(name, nulls, low.into(), high.into())
        });
        plan(&files.collect::<Vec<_>>(), HOUR_MS, &policy).len()
    };
    assert_eq!(jobs(0, &|name| (name as i64 * 100 - 1_000, name as i64 * 100 - 901)), 0);
    // As texts, 9 would be after 100 and all would overlap.
    assert_eq!(jobs(0, &|name| (8 * (name as i64 + 1), 8 * (name as i64 + 2))), 0);
    assert_eq!(jobs(0, &|_| (0, 1_000)), 1);
    // All of them have nulls, and so all begin with null.
    assert_eq!(jobs(1, &|name| (name as i64, name as i64 + 50)), 1);
}

/// A device that was out of reach for days, again and again.
#[test]
fn late_rows_on_an_old_date_never_cost_a_rewrite_of_it() {
    let mut table = overlapping(100, 128 * MIB);
    table.rest(0, &policy());
    let (before, bytes_in) = (table.written, table.bytes_in);
    for hour in 1..200 {
        let now_ms = 2 * hour * HOUR_MS;
        table.append(20_000 + hour as u64 % 7 * 10_000, ALL, now_ms);
        table.round(now_ms, &policy());
        table.round(now_ms + HOUR_MS, &policy());
    }
    let amplification = (table.written - before) as f64 / (table.bytes_in - bytes_in) as f64;
    println!("late rows are written {amplification:.2} times, {} small files", table.small(&policy()));
    assert_eq!(table.good_rewritten, before);
    assert!(amplification < 8.0, "late rows are written {amplification:.2} times");
    assert!(table.small(&policy()) <= 5);
}

/// Files of any sizes and ranges, of three dates.
fn files() -> impl Strategy<Value = Vec<Arc<DataFile>>> {
    let size = prop_oneof![1..20_000u64, 1..80 * MIB, 64 * MIB..300 * MIB];
    let file = (size, 0..3i32, 0..3 * HOUR_MS, 0..DEVICES, 0..DEVICES, any::<bool>());
    proptest::collection::vec(file, 0..400).prop_map(|files| {
        let file = |(name, (size, day, at, a, b, has_range)): (usize, (u64, i32, i64, u64, u64, bool))| {
            let file = table::file(name as u64, size, day, at);
            if has_range { ranged(file, a.min(b), a.max(b)) } else { file }
        };
        files.into_iter().enumerate().map(file).collect()
    })
}

proptest! {
    #[test]
    fn holds_its_promises_for_any_files(files in files(), seed in any::<u64>()) {
        let policy = policy();
        let now = 2 * HOUR_MS;
        let jobs = plan(&files, now, &policy);

        let mut shuffled = files.clone();
        shuffled.sort_by_key(|file| (file.size.wrapping_mul(seed | 1).rotate_left(17), seed ^ file.modified_ms as u64));
        prop_assert_eq!(&plan(&shuffled, now, &policy), &jobs);

        let mut seen = HashSet::new();
        for job in &jobs {
            prop_assert!((2..=policy.max_files).contains(&job.inputs.len()));
            prop_assert!(job.inputs.iter().map(|file| file.rows()).sum::<u64>() <= policy.max_rows);
            prop_assert!(bytes(&job.inputs) <= policy.max_bytes);
            let good = job.inputs.iter().filter(|file| policy.is_good(file)).count();
            prop_assert!(good == 0 || good == job.inputs.len() && depth(&job.inputs) >= 4, "{good} good files");
            for file in &job.inputs {
                prop_assert_eq!(file.date, job.date);
                prop_assert!(seen.insert(file.path.clone()));
            }
        }
    }

    /// Merging until nothing is planned ends, and leaves few files. Good files are not written again and again.
    #[test]
    fn comes_to_rest_with_few_small_files(
        files in proptest::collection::vec((prop_oneof![1..20_000u64, 1..200 * MIB], 0..DEVICES, 0..DEVICES), 0..200),
        max_bytes in 2..40u64,
    ) {
        let policy = Policy { max_bytes: max_bytes * 128 * MIB, ..policy() };
        let mut table = Table::new(1);
        files.iter().for_each(|(size, a, b)| table.append(*size, (*a.min(b), *a.max(b)), 0));
        table.rest(0, &policy);
        prop_assert!(table.small(&policy) <= 20, "{} small files", table.small(&policy));
        prop_assert!(table.good_rewritten <= 2 * table.bytes_in, "{} of {}", table.good_rewritten, table.bytes_in);
    }
}
