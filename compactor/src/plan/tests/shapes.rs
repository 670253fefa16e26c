//! Traffic that is not steady, on one date or many: what the compactor writes, and what a reader meets.

use super::policy;
use super::table::{Table, depth};
use super::week::Noise;

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: u64 = 24 * 60;

/// What comes in a minute: a date, by how many days it is older than today, and the size of a fragment in KiB.
type Minute = Vec<(usize, u64)>;

/// What came of it.
struct Came {
    amplification: f64,
    most_small: usize,
    /// Of a date, in the end.
    files: usize,
    small: usize,
    depth: usize,
}

/// `minute` tells what comes in each minute of `days`; then nobody writes for two more days. Plans are made every minute.
fn simulate(days: u64, mut minute: impl FnMut(u64, &mut Noise) -> Minute) -> Came {
    const BEFORE: usize = 30;
    let (policy, mut noise) = (policy(), Noise(days));
    let mut dates: Vec<Table> = (0..BEFORE as i32 + days as i32).map(Table::new).collect();
    let mut most_small = 0;
    for now in 0..(days + 2) * DAY_MINUTES {
        let now_ms = now as i64 * MINUTE_MS;
        let today = BEFORE + (now / DAY_MINUTES) as usize;
        let came = if now < days * DAY_MINUTES { minute(now, &mut noise) } else { Minute::new() };
        for (ago, kib) in came {
            let (size, devices) = (noise.around(kib << 10), noise.devices());
            dates[today - ago].append(size, devices, now_ms);
        }
        for date in dates.iter_mut().filter(|date| !date.files.is_empty()) {
            if !date.is_at_rest(now_ms, &policy) {
                date.round(now_ms, &policy);
                most_small = most_small.max(date.small(&policy));
            }
        }
    }
    let sum = |of: fn(&Table) -> u64| dates.iter().map(of).sum::<u64>() as f64;
    let most = |of: &dyn Fn(&Table) -> usize| dates.iter().filter(|date| date.bytes_in > 0).map(of).max().unwrap();
    Came {
        amplification: sum(|date| date.written) / sum(|date| date.bytes_in),
        most_small,
        files: most(&|date| date.files.len()),
        small: most(&|date| date.small(&policy)),
        depth: most(&|date| depth(&date.files)),
    }
}

fn expect(shape: &str, came: &Came) {
    let Came { amplification, most_small, files, small, depth } = came;
    println!(
        "{shape}: written {amplification:.2} times; at most {most_small} small files; in the end {files} files of a \
         date, {small} small, {depth} of one device"
    );
    assert!(*amplification < 3.0, "written {amplification:.2} times");
    assert!(*most_small <= 100, "{most_small} small files");
    assert!(*small <= 6, "{small} small files in the end");
}

#[test]
fn a_fragment_every_second() {
    let came = simulate(2, |_, _| vec![(0, 4); 60]);
    expect("4 KiB every second", &came);
}

#[test]
fn bursts_of_ten_minutes_in_each_hour() {
    let came = simulate(3, |now, _| if now % 60 < 10 { vec![(0, 200); 12] } else { Minute::new() });
    expect("ten minutes of 12 x 200 KiB an hour", &came);
}

/// The date is cold before each.
#[test]
fn bursts_with_hours_between_them() {
    for hours in [2, 3, 6] {
        let of_burst = |now: u64| now % (hours * 60) < 10;
        let came = simulate(3, |now, _| if of_burst(now) { vec![(0, 200); 12] } else { Minute::new() });
        expect(&format!("ten minutes of 12 x 200 KiB every {hours} h"), &came);
    }
}

#[test]
fn a_trickle() {
    for minutes in [10, 45, 70] {
        let came = simulate(3, |now, _| if now % minutes == 0 { vec![(0, 8)] } else { Minute::new() });
        expect(&format!("8 KiB every {minutes} minutes"), &came);
    }
}

/// Devices that were out of reach: half of what comes is today's, the rest is spread over as many dates as are open.
#[test]
fn late_events_over_many_dates() {
    let came = simulate(3, |now, noise| {
        let late = (1..24).map(|ago| (ago, 1 + noise.below(20)));
        let today = (0..12).map(|_| (0, 40));
        if now % 2 == 0 { today.chain(late).collect() } else { today.collect() }
    });
    expect("24 dates", &came);
}

#[test]
fn one_giant_fragment_among_small_ones() {
    let came = simulate(2, |now, _| match now {
        600 => vec![(0, 60 << 10), (0, 8)],
        700 => vec![(0, 300 << 10)],
        _ => vec![(0, 8); 4],
    });
    expect("4 x 8 KiB a minute, 60 MiB and 300 MiB once", &came);
}

/// A table that nobody compacted for long, and a day of most traffic.
#[test]
fn a_plan_of_a_hundred_thousand_files_takes_no_time() {
    let (policy, mut noise) = (policy(), Noise(1));
    for (dates, kib) in [(1, 100), (1, 100 << 10), (24, 100), (1_000, 30 << 10)] {
        let mut tables: Vec<Table> = (0..dates).map(Table::new).collect();
        for file in 0..100_000 {
            let (size, devices) = (noise.around(kib << 10), noise.devices());
            tables[file % dates as usize].append(size, devices, 0);
        }
        let files: Vec<_> = tables.into_iter().flat_map(|table| table.files).collect();
        for now_ms in [0, 24 * 60 * MINUTE_MS] {
            let began = std::time::Instant::now();
            let jobs = super::plan(&files, now_ms, &policy).len();
            let took = began.elapsed();
            println!("100,000 files of {kib} KiB of {dates} dates: {jobs} jobs in {took:?}");
            // Many times what it takes without optimisation on a busy machine, and a hundredth of what pairs would take.
            assert!(took.as_secs() < 20, "{took:?}");
        }
    }
}
