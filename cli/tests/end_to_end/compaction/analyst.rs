//! Asks an engine without a pause. Every answer must be a state of the log: a device posts 0, 1, 2 and so on, a third of
//! them for each of three dates, so what has come of it follows from how much has come.

use super::KEEP_REMOVED;
use super::engine::{Engine, Line, Summary};
use crate::support::device::Device;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Asks until it is told to stop.
#[derive(Debug)]
pub struct Analyst {
    stop: Arc<AtomicBool>,
    grew: Arc<AtomicU32>,
    thread: JoinHandle<Seen>,
}

/// What an analyst saw.
#[derive(Debug)]
pub struct Seen {
    pub engine: &'static str,
    pub queries: u32,
    /// Answers with more events than the one before.
    pub grew: u32,
    pub events: u64,
    pub longest_query: Duration,
    /// Queries that failed and took longer than files are kept for them: nobody has promised them anything.
    pub too_slow: u32,
}

/// An analyst that is stopped early asks so often all the same.
const FEWEST: u32 = 10;

/// A device whose rows somebody deletes when all of them have come: then they are gone at once and for good.
pub const ERASED: usize = 100;

impl Analyst {
    pub fn start(engine: Engine) -> Analyst {
        let (stop, grew) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (until, told) = (Arc::clone(&stop), Arc::clone(&grew));
        Analyst { stop, grew, thread: std::thread::spawn(move || ask(engine, &until, &told)) }
    }

    /// How many answers so far had more events than the one before. Panics if an answer was wrong.
    pub fn grew(&self) -> u32 {
        assert!(!self.thread.is_finished(), "an answer was wrong");
        self.grew.load(Ordering::Relaxed)
    }

    /// Panics if an answer was wrong, or none.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every answer was right")
    }
}

fn ask(mut engine: Engine, stop: &AtomicBool, grew: &AtomicU32) -> Seen {
    let longest_query = Duration::ZERO;
    let mut seen = Seen { engine: engine.name(), queries: 0, grew: 0, events: 0, longest_query, too_slow: 0 };
    let (mut before, mut is_erased) = (BTreeMap::<String, u64>::new(), false);
    while !stop.load(Ordering::Relaxed) || seen.queries < FEWEST {
        let began = Instant::now();
        let (answer, took) = (engine.ask(), began.elapsed());
        seen.longest_query = seen.longest_query.max(took);
        seen.queries += 1;
        let lines = match answer {
            Err(_) if took >= KEEP_REMOVED => {
                seen.too_slow += 1;
                continue;
            }
            answer => answer.unwrap_or_else(|complaint| panic!("{} after {took:?}: {complaint}", seen.engine)),
        };
        let now = prefixes(lines).unwrap_or_else(|wrong| panic!("{}: {wrong}", seen.engine));
        let erased = Device::name_of(ERASED);
        is_erased |= before.contains_key(&erased) && !now.contains_key(&erased);
        assert!(!is_erased || !now.contains_key(&erased), "{}: rows of {erased} are back", seen.engine);
        for (device, events) in before.iter().filter(|(device, _)| !is_erased || **device != erased) {
            let found = now.get(device).copied().unwrap_or_default();
            assert!(found >= *events, "{}: {device} has {found} events after {events}", seen.engine);
        }
        let events = now.values().sum();
        seen.grew += u32::from(events > seen.events);
        grew.store(seen.grew, Ordering::Relaxed);
        (seen.events, before) = (events, now);
    }
    seen
}

/// How many events of each device there are.
fn prefixes(lines: Vec<Line>) -> Result<BTreeMap<String, u64>, String> {
    let mut devices: BTreeMap<String, Vec<Summary>> = BTreeMap::new();
    for line in lines {
        devices.entry(line.device).or_default().push(line.summary);
    }
    let prefix = |(device, dates): (String, Vec<Summary>)| match prefix(&dates) {
        Ok(events) => Ok((device, events)),
        Err(wrong) => Err(format!("{device}: {wrong}")),
    };
    devices.into_iter().map(prefix).collect()
}

/// How many events of a device there are on its dates, which must be its first.
fn prefix(dates: &[Summary]) -> Result<u64, String> {
    let events: u64 = dates.iter().map(|date| date.rows).sum();
    let expected = (0..events.min(3)).map(|first| {
        let rows = (events - first).div_ceil(3);
        let last = first + 3 * (rows - 1);
        Summary { rows, places: rows, sum: rows * (first + last) / 2, first, last }
    });
    let mut dates = dates.to_vec();
    dates.sort_by_key(|date| date.first);
    match dates.iter().copied().eq(expected.clone()) {
        true => Ok(events),
        false => Err(format!("{dates:?}, not {:?}", expected.collect::<Vec<_>>())),
    }
}

#[test]
fn what_is_missing_doubled_or_out_of_place_is_no_prefix() {
    let right = |rows: u64, first: u64| {
        let last = first + 3 * (rows - 1);
        Summary { rows, places: rows, sum: rows * (first + last) / 2, first, last }
    };
    assert_eq!(prefix(&[right(2, 0), right(1, 1), right(1, 2)]), Ok(4));
    assert_eq!(prefix(&[right(1, 0)]), Ok(1));
    let doubled = Summary { places: 1, ..right(2, 0) };
    let changed = Summary { sum: 4, ..right(2, 0) };
    for first in [doubled, changed, right(3, 0)] {
        assert!(prefix(&[first, right(1, 1), right(1, 2)]).is_err(), "{first:?}");
    }
    assert!(prefix(&[right(2, 0), right(1, 1)]).is_err());
}
