//! Tells how far the process is: one line that is drawn again and again on a terminal, a log line every few seconds
//! elsewhere. The figures are those of `/metrics`, so the two cannot disagree.

use crate::telemetry::Telemetry;
use indicatif::{HumanCount, ProgressBar};
use std::time::{Duration, Instant};
use tracing::info;

const LOG_EVERY: Duration = Duration::from_secs(5);
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// What this process did so far; `None` for what its roles do not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events that were acknowledged.
    pub accepted: Option<u64>,
    /// Events that are in a table.
    pub committed: Option<u64>,
    /// Records in the log that are not in a table yet.
    pub lag: Option<u64>,
    /// Files that make up the tables.
    pub files: Option<u64>,
}

impl Totals {
    /// Reads them from metrics in Prometheus' text format.
    pub fn read(metrics: &str) -> Totals {
        let lag = sum(metrics, "lakehose_processor_lag_records");
        // A processor tells its lag from the start, but its commits only from the first one on.
        let committed = sum(metrics, "lakehose_processor_events_committed_total").or(lag.map(|_| 0));
        Totals {
            accepted: sum(metrics, "lakehose_ingest_events_accepted_total"),
            committed,
            lag,
            files: sum(metrics, "lakehose_compactor_files_live"),
        }
    }
}

/// Adds up a metric over its labels.
pub fn sum(metrics: &str, name: &str) -> Option<u64> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.parse::<f64>().ok()
    });
    samples.fold(None, |total, sample| Some(total.unwrap_or(0.0) + sample)).map(|total| total as u64)
}

/// Reports until dropped.
pub async fn report(telemetry: Telemetry) {
    match telemetry.line.clone() {
        Some(line) => draw(telemetry, line).await,
        None => log(telemetry).await,
    }
}

async fn log(telemetry: Telemetry) {
    let mut every = tokio::time::interval(LOG_EVERY);
    every.tick().await;
    let mut last = None;
    loop {
        every.tick().await;
        let totals = Totals::read(&telemetry.metrics.render());
        // An idle process says nothing new; one that is behind keeps saying so.
        if last == Some(totals) && totals.lag.unwrap_or(0) == 0 {
            continue;
        }
        let Totals { accepted, committed, lag, files } = totals;
        info!(accepted, committed, lag, files, "progress");
        last = Some(totals);
    }
}

async fn draw(telemetry: Telemetry, line: ProgressBar) {
    let mut every = tokio::time::interval(DRAW_EVERY);
    let mut rates = (Rate::new(), Rate::new());
    loop {
        every.tick().await;
        let totals = Totals::read(&telemetry.metrics.render());
        let now = Instant::now();
        let counted = |count: u64, rate: f64| format!("{} ({}/s)", HumanCount(count), HumanCount(rate as u64));
        let parts = [
            totals.accepted.map(|n| format!("accepted {}", counted(n, rates.0.at(n, now)))),
            totals.committed.map(|n| format!("committed {}", counted(n, rates.1.at(n, now)))),
            totals.lag.map(|n| format!("lag {}", HumanCount(n))),
            totals.files.map(|n| format!("files {}", HumanCount(n))),
        ];
        line.set_message(parts.into_iter().flatten().collect::<Vec<_>>().join("  ·  "));
    }
}

/// How fast a count grows, over the last seconds.
struct Rate {
    seen: std::collections::VecDeque<(Instant, u64)>,
}

impl Rate {
    const OVER: Duration = Duration::from_secs(3);

    fn new() -> Rate {
        Rate { seen: Default::default() }
    }

    fn at(&mut self, count: u64, now: Instant) -> f64 {
        self.seen.push_back((now, count));
        while self.seen.len() > 2 && now - self.seen[0].0 > Rate::OVER {
            self.seen.pop_front();
        }
        let (then, before) = self.seen[0];
        let seconds = (now - then).as_secs_f64();
        if seconds > 0.0 { count.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_a_metric_over_its_labels() {
        let metrics = "# TYPE lakehose_processor_lag_records gauge\n\
                       lakehose_processor_lag_records{dataset=\"a\",partition=\"0\"} 3\n\
                       lakehose_processor_lag_records{dataset=\"} 7\",partition=\"1\"} 4\n\
                       lakehose_processor_lag_records_of_others 100\n\
                       lakehose_compactor_files_live 9\n";
        let totals = Totals::read(metrics);
        assert_eq!((totals.lag, totals.files, totals.accepted), (Some(7), Some(9), None));
        assert_eq!(totals.committed, Some(0));
    }

    #[test]
    fn a_rate_follows_the_last_seconds() {
        let mut rate = Rate::new();
        let start = Instant::now();
        assert_eq!(rate.at(0, start), 0.0);
        assert_eq!(rate.at(100, start + Duration::from_secs(1)), 100.0);
        for second in 2..10 {
            rate.at(100, start + Duration::from_secs(second));
        }
        assert_eq!(rate.at(100, start + Duration::from_secs(10)), 0.0);
    }
}
