//! Looks at a counter ten times a second and remembers the longest time in which it stood still.

use super::http;
use super::process::{Lakehose, sum};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Watches until it is asked.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Stop>,
}

/// The longest standstill.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stop {
    /// Counted in looks: a machine that gave time to neither of them is not blamed on the process.
    pub by_looks: Duration,
    pub by_clock: Duration,
}

impl Watch {
    /// Watches `series` of a process that must live as long.
    pub fn start(process: &Lakehose, series: &'static str) -> Watch {
        let (url, stop) = (process.admin("/metrics"), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&stop);
        Watch { stop, thread: std::thread::spawn(move || watch(&url, series, &until)) }
    }

    pub fn stop(self) -> Stop {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the process could be asked all the time")
    }
}

fn watch(url: &str, series: &str, stop: &AtomicBool) -> Stop {
    let client = http::client();
    let look = || {
        let page = http::RUNTIME.block_on(async { client.get(url).send().await?.text().await });
        sum(&page.unwrap(), series)
    };
    let (mut seen, mut grew, mut looks, mut longest) = (look(), Instant::now(), 0, Stop::default());
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
        let now = look();
        looks += 1;
        // Also while it still stands: the longest may be the last.
        longest.by_looks = longest.by_looks.max(LOOK_EVERY * looks);
        longest.by_clock = longest.by_clock.max(grew.elapsed());
        if now > seen {
            (seen, grew, looks) = (now, Instant::now(), 0);
        }
    }
    longest
}
