//! A week of traffic, on two days of which nobody writes: what the compactor writes, and what a reader meets.

use super::policy;
use super::table::{DEVICES, Table, depth};

const DAY_MS: i64 = 86_400_000;
const STEP_MS: i64 = 5_000;

/// So much of what comes in is for the three days before, of a hundred.
const LATE: u64 = 2;

/// Numbers that look random and are the same in every run.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// Nearly all devices.
    pub(super) fn devices(&mut self) -> (u64, u64) {
        (self.below(DEVICES / 100), DEVICES - 1 - self.below(DEVICES / 100))
    }

    /// Half to one and a half times as much.
    pub(super) fn around(&mut self, size: u64) -> u64 {
        size / 2 + self.below(size)
    }
}

struct Traffic {
    days: i64,
    fragment_kib: u64,
    /// Each of them writes a fragment every five seconds.
    processors: u64,
    /// Late rows come every so many of these steps.
    late_every: u64,
}

struct Week {
    dates: Vec<Table>,
    most_small: usize,
}

/// Steady traffic for days, and then nobody writes for two more.
fn simulate(traffic: &Traffic) -> Week {
    let Traffic { days, processors, late_every, .. } = *traffic;
    let fragment_bytes = traffic.fragment_kib << 10;
    let (policy, mut noise) = (policy(), Noise(fragment_bytes));
    let mut dates: Vec<Table> = (0..days as i32).map(Table::new).collect();
    let mut most_small = 0;
    for step in 0..((days + 2) * DAY_MS / STEP_MS) as u64 {
        let now_ms = step as i64 * STEP_MS;
        let today = (now_ms / DAY_MS) as usize;
        if let Some(date) = dates.get_mut(today) {
            for _ in 0..processors {
                date.append(noise.around(fragment_bytes), noise.devices(), now_ms);
            }
        }
        let late = step % late_every == late_every - 1 && today < dates.len();
        if late {
            for date in &mut dates[today.saturating_sub(3)..today] {
                let size = late_every * processors * fragment_bytes * LATE / 100 / 3;
                date.append(noise.around(size), noise.devices(), now_ms);
            }
        }
        for (day, date) in dates.iter_mut().enumerate().take(today + 1) {
            // The plan of a date that nobody writes to changes with the hour alone, and not at all once it is at rest.
            let hourly = step % 720 == 719 && !date.is_at_rest(now_ms, &policy);
            if hourly || step % 6 == 5 && (late || day == today) {
                most_small = most_small.max(date.small(&policy));
                date.round(now_ms, &policy);
            }
        }
    }
    Week { dates, most_small }
}

/// `most_depth` bounds the files that a reader of one device opens on a cold date.
fn expect(traffic: Traffic, most_depth: usize) {
    let week = simulate(&traffic);
    let sum = |of: fn(&Table) -> u64| week.dates.iter().map(of).sum::<u64>() as f64;
    let amplification = sum(|date| date.written) / sum(|date| date.bytes_in);
    let most = |of: &dyn Fn(&Table) -> usize| week.dates.iter().map(of).max().unwrap();
    let (files, small) = (most(&|date| date.files.len()), most(&|date| date.small(&policy())));
    let depth = most(&|date| depth(&date.files));
    println!(
        "{} x {} KiB every 5 s, {} MiB a day: written {amplification:.2} times; at most {} small files while hot; cold: \
         {files} files, {small} small, {depth} of one device",
        traffic.processors,
        traffic.fragment_kib,
        week.dates[0].bytes_in >> 20,
        week.most_small
    );
    assert!(amplification < 3.0, "written {amplification:.2} times");
    assert!(week.most_small <= 100, "{} small files", week.most_small);
    assert!(small <= 5, "{small} small files on a cold date");
    assert!(depth <= most_depth, "a device is in {depth} files");
}

#[test]
fn a_week_of_tiny_fragments() {
    expect(Traffic { days: 5, fragment_kib: 1, processors: 1, late_every: 60 }, 4);
}

#[test]
fn a_week_of_small_fragments() {
    expect(Traffic { days: 5, fragment_kib: 8, processors: 2, late_every: 60 }, 4);
}

#[test]
fn a_week_of_fragments_of_some_processors() {
    expect(Traffic { days: 5, fragment_kib: 40, processors: 3, late_every: 60 }, 10);
}

#[test]
fn a_week_of_middling_fragments() {
    expect(Traffic { days: 5, fragment_kib: 200, processors: 2, late_every: 60 }, 12);
}

#[test]
fn a_week_of_fragments_of_a_mebibyte() {
    expect(Traffic { days: 5, fragment_kib: 1_024, processors: 1, late_every: 180 }, 32);
}

#[test]
fn a_week_of_large_fragments() {
    expect(Traffic { days: 5, fragment_kib: 5 * 1_024, processors: 1, late_every: 360 }, 84);
}

#[test]
fn three_days_of_the_largest_fragments() {
    expect(Traffic { days: 3, fragment_kib: 20 * 1_024, processors: 1, late_every: 720 }, 160);
}
