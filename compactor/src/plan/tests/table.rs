//! A table without contents: files have a size, and their rows are spread evenly over the devices from one to another.
//! Merges write as many files as real ones do, cut at the same places.

use super::super::{Policy, bytes, plan};
use lake::DataFile;
use lake::file::FileStats;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;

pub(super) const DEVICES: u64 = 1_000_000;

/// Bytes of a row.
const ROW: u64 = 40;

pub(super) fn file(name: u64, size: u64, day: i32, modified_ms: i64) -> Arc<DataFile> {
    Arc::new(DataFile {
        path: format!("date={day}/{name:08}.parquet"),
        size,
        date: lake::layout::date_from_days(day),
        modified_ms,
        stats: FileStats { rows: size / ROW, ..FileStats::default() },
        ranges: Vec::new(),
        sorted_by: Vec::new(),
    })
}

pub(super) fn ranged(file: Arc<DataFile>, low: u64, high: u64) -> Arc<DataFile> {
    let mut file = Arc::unwrap_or_clone(file);
    let device = |device: u64| Value::from(format!("{device:07}"));
    file.stats.min.insert("device_id".to_owned(), device(low));
    file.stats.max.insert("device_id".to_owned(), device(high));
    Arc::new(file)
}

/// First and last device of a file.
pub(super) fn range(file: &DataFile) -> (u64, u64) {
    let device = |value: &Value| value.as_str().unwrap().parse().unwrap();
    (device(&file.stats.min["device_id"]), device(&file.stats.max["device_id"]))
}

/// The most files that a reader of one device has to open.
pub(super) fn depth(files: &[Arc<DataFile>]) -> usize {
    let (mut lows, mut highs): (Vec<u64>, Vec<u64>) = files.iter().map(|file| range(file)).unzip();
    lows.sort_unstable();
    highs.sort_unstable();
    let begun = |device: u64| lows.partition_point(|low| *low <= device);
    let ended = |device: u64| highs.partition_point(|high| *high < device);
    lows.iter().map(|low| begun(*low) - ended(*low)).max().unwrap_or_default()
}

/// One date.
#[derive(Default)]
pub(super) struct Table {
    pub(super) day: i32,
    pub(super) files: Vec<Arc<DataFile>>,
    pub(super) bytes_in: u64,
    pub(super) written: u64,
    /// Bytes of good files that were written again.
    pub(super) good_rewritten: u64,
    next: u64,
    /// When the last file came; none once nothing was planned for a cold date.
    restless_since: Option<i64>,
}

impl Table {
    pub(super) fn new(day: i32) -> Table {
        Table { day, ..Table::default() }
    }

    pub(super) fn append(&mut self, size: u64, devices: (u64, u64), now_ms: i64) {
        self.bytes_in += size;
        self.add(size, devices, now_ms);
    }

    fn add(&mut self, size: u64, (low, high): (u64, u64), now_ms: i64) {
        self.next += 1;
        self.restless_since = Some(now_ms);
        self.files.push(ranged(file(self.next, size, self.day, now_ms), low, high));
    }

    /// Does all that is planned; returns the number of jobs.
    pub(super) fn round(&mut self, now_ms: i64, policy: &Policy) -> usize {
        let jobs = plan(&self.files, now_ms, policy);
        if jobs.is_empty() {
            return 0;
        }
        let inputs = || jobs.iter().flat_map(|job| &job.inputs);
        let paths: HashSet<&str> = inputs().map(|file| file.path.as_str()).collect();
        let before = self.files.len();
        self.files.retain(|file| !paths.contains(file.path.as_str()));
        assert_eq!(before - self.files.len(), inputs().count());
        for job in &jobs {
            self.written += bytes(&job.inputs);
            for (size, devices) in outputs(&job.inputs, policy.target_bytes) {
                self.add(size, devices, now_ms);
            }
        }
        let good = inputs().filter(|file| policy.is_good(file));
        self.good_rewritten += good.map(|file| file.size).sum::<u64>();
        jobs.len()
    }

    /// Whether nothing was planned since it is cold, and so nothing ever will be.
    pub(super) fn is_at_rest(&mut self, now_ms: i64, policy: &Policy) -> bool {
        let cold = policy.cold_after.as_millis() as i64;
        if self.restless_since.is_some_and(|since| now_ms - since > cold) && self.round(now_ms, policy) == 0 {
            self.restless_since = None;
        }
        self.restless_since.is_none()
    }

    /// Rounds until nothing is planned any more, an hour apart.
    pub(super) fn rest(&mut self, mut now_ms: i64, policy: &Policy) {
        let hour = policy.cold_after.as_millis() as i64;
        for _ in 0..40 {
            now_ms += hour;
            if self.round(now_ms, policy) == 0 {
                return;
            }
        }
        panic!("no rest after forty rounds");
    }

    pub(super) fn small(&self, policy: &Policy) -> usize {
        self.files.iter().filter(|file| !policy.is_good(file)).count()
    }
}

/// Sizes and devices of the files that a merge writes.
fn outputs(inputs: &[Arc<DataFile>], segment: u64) -> Vec<(u64, (u64, u64))> {
    let ranges: Vec<(u64, u64)> = inputs.iter().map(|file| range(file)).collect();
    let mut points: Vec<u64> = ranges.iter().flat_map(|(low, high)| [*low, high + 1]).collect();
    points.sort_unstable();
    points.dedup();
    let mut left = bytes(inputs) as f64;
    let (mut outputs, mut size, mut first) = (Vec::new(), 0.0, points[0]);
    let segment = segment as f64;
    for (start, end) in points.iter().zip(&points[1..]) {
        let density: f64 = inputs
            .iter()
            .zip(&ranges)
            .filter(|(_, (low, high))| low <= start && start <= high)
            .map(|(file, (low, high))| file.size as f64 / (high + 1 - low) as f64)
            .sum();
        let mut device = *start;
        while device < *end {
            // What is left after a file that is full is too little for another: it goes into this one.
            let devices = match size < segment {
                true => (((segment - size) / density).ceil().max(1.0) as u64).min(end - device),
                false => end - device,
            };
            size += devices as f64 * density;
            left -= devices as f64 * density;
            device += devices;
            if size >= segment && left >= segment / 2.0 {
                outputs.push((size as u64, (first, device - 1)));
                (size, first) = (0.0, device);
            }
        }
    }
    outputs.push(((size.round() as u64).max(1), (first, points[points.len() - 1] - 1)));
    // What rounding took away, no row did.
    let lost = bytes(inputs).saturating_sub(outputs.iter().map(|output| output.0).sum());
    outputs[0].0 += lost;
    outputs
}
