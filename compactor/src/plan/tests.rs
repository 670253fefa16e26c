use super::*;
use lake::file::FileStats;
use proptest::prelude::*;
use std::collections::HashSet;

const MIB: u64 = 1 << 20;
const HOUR_MS: i64 = 3_600_000;

fn policy() -> Policy {
    Policy {
        target_bytes: 128 * MIB,
        min_files: 4,
        max_files: 128,
        max_rows: 8_000_000,
        cold_after: Duration::from_secs(3600),
    }
}

fn file(name: u64, size: u64, day: i32, modified_ms: i64) -> Arc<DataFile> {
    Arc::new(DataFile {
        path: format!("date={day}/{name:08}.parquet"),
        size,
        date: lake::layout::date_from_days(day),
        modified_ms,
        stats: FileStats { rows: size / 40, ..FileStats::default() },
        ranges: Vec::new(),
        sorted_by: Vec::new(),
    })
}

fn sizes(jobs: &[MergeJob]) -> Vec<Vec<u64>> {
    jobs.iter().map(|job| job.inputs.iter().map(|file| file.size).collect()).collect()
}

fn files_of(sizes: &[u64]) -> Vec<Arc<DataFile>> {
    sizes.iter().enumerate().map(|(name, size)| file(name as u64, *size, 1, 0)).collect()
}

#[test]
fn waits_while_a_merge_would_not_lift_its_rows_by_a_tier() {
    let files = files_of(&[MIB / 4; 7]);
    assert!(plan(&files, 0, &policy()).is_empty());
    let files = files_of(&[MIB / 4; 8]);
    assert_eq!(sizes(&plan(&files, 0, &policy())), [[MIB / 4; 8]]);
}

#[test]
fn never_touches_a_file_that_is_good() {
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
fn a_backlog_of_fragments_becomes_segments_at_once() {
    let jobs = plan(&files_of(&[2 * MIB; 200]), 0, &policy());
    assert_eq!(jobs.iter().map(|job| job.inputs.len()).collect::<Vec<_>>(), [64, 64, 64]);
    let jobs = plan(&files_of(&[MIB / 100; 1000]), 0, &policy());
    assert_eq!(jobs.iter().map(|job| job.inputs.len()).collect::<Vec<_>>(), [128, 128, 128, 128, 128, 128, 128, 104]);
}

proptest! {
    #[test]
    fn holds_its_promises_for_any_files(
        sizes in proptest::collection::vec((1..80 * MIB, 0..3i32, 0..3 * HOUR_MS), 0..60),
        small in proptest::collection::vec((1..20_000u64, 0..3i32, 0..3 * HOUR_MS), 0..300),
        seed in any::<u64>(),
    ) {
        let policy = policy();
        let all = sizes.into_iter().chain(small).enumerate();
        let files: Vec<_> = all.map(|(name, (size, day, at))| file(name as u64, size, day, at)).collect();
        let now = 3 * HOUR_MS;
        let jobs = plan(&files, now, &policy);

        let mut shuffled = files.clone();
        shuffled.sort_by_key(|file| (file.size.wrapping_mul(seed | 1).rotate_left(17), seed ^ file.modified_ms as u64));
        prop_assert_eq!(&plan(&shuffled, now, &policy), &jobs);

        let mut seen = HashSet::new();
        for job in &jobs {
            prop_assert!((2..=policy.max_files).contains(&job.inputs.len()));
            prop_assert!(rows(&job.inputs) <= policy.max_rows);
            let before_the_last = &job.inputs[..job.inputs.len() - 1];
            prop_assert!(bytes(before_the_last) < policy.target_bytes);
            for file in &job.inputs {
                prop_assert_eq!(file.date, job.date);
                prop_assert!(!policy.is_good(file));
                prop_assert!(seen.insert(file.path.clone()));
            }
        }
    }

    /// Merging until nothing is planned ends, and leaves few files.
    #[test]
    fn comes_to_rest_with_few_files(
        sizes in proptest::collection::vec(1..30 * MIB, 0..200),
        is_cold in any::<bool>(),
    ) {
        let now = if is_cold { 2 * HOUR_MS } else { 0 };
        let mut table = Simulation::new(files_of(&sizes));
        for _ in 0..20 {
            if table.round(now, 0) == 0 {
                break;
            }
        }
        prop_assert_eq!(table.round(now, 0), 0);
        let small = table.files.iter().filter(|file| !policy().is_good(file)).count();
        // At rest every tier holds fewer files than lift each other out of it; a cold date at most one each of falling sizes.
        prop_assert!(small <= if is_cold { 16 } else { 3 * GROWTH as usize }, "{small} small files");
    }
}

/// A table without contents.
struct Simulation {
    files: Vec<Arc<DataFile>>,
    written: u64,
    next: u64,
}

impl Simulation {
    fn new(files: Vec<Arc<DataFile>>) -> Simulation {
        Simulation { files, written: 0, next: 1_000_000 }
    }

    fn append(&mut self, size: u64, now_ms: i64) {
        self.files.push(file(self.next, size, 1, now_ms));
        self.next += 1;
    }

    /// Does all that is planned; returns the number of jobs.
    fn round(&mut self, now_ms: i64, modified_ms: i64) -> usize {
        let jobs = plan(&self.files, now_ms, &policy());
        for job in &jobs {
            let size = bytes(&job.inputs);
            self.files.retain(|file| !job.inputs.contains(file));
            self.written += size;
            self.append(size, modified_ms);
        }
        jobs.len()
    }
}

/// Bytes written by the compactor over bytes that came in, for a day of a fragment every five seconds, and the most small
/// files that a reader met.
fn simulate_day(fragment_bytes: u64) -> (f64, usize) {
    let mut table = Simulation::new(Vec::new());
    let (mut incoming, mut most_small) = (0, 0);
    for step in 0..17_280 {
        let now_ms = step * 5_000;
        table.append(fragment_bytes, now_ms);
        incoming += fragment_bytes;
        if step % 6 == 5 {
            table.round(now_ms, now_ms);
            most_small = most_small.max(table.files.iter().filter(|file| !policy().is_good(file)).count());
        }
    }
    (table.written as f64 / incoming as f64, most_small)
}

#[test]
fn a_day_of_steady_fragments_is_written_less_than_three_times_over() {
    for kib in [8, 40, 200, 1_000, 5_000, 20_000] {
        let (amplification, most_small) = simulate_day(kib * 1024);
        println!("fragments of {kib} KiB: amplification {amplification:.2}, at most {most_small} small files");
        assert!(amplification <= 3.0, "fragments of {kib} KiB are written {amplification:.2} times");
        assert!(most_small <= 100, "fragments of {kib} KiB: {most_small} small files");
    }
}
