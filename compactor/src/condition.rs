//! Whether compaction gets on, and what is said about it when it does not.
//!
//! An outage fails every table again and again; it is told once when it begins and once when it is over. Meanwhile
//! [`Condition::trouble`] and the metrics have the rest.

use crate::metrics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// Shared by all that work, and by those who ask. Clones are the same.
#[derive(Debug, Clone)]
pub struct Condition {
    failing: Arc<Mutex<BTreeMap<String, Failing>>>,
    /// How often the store was found to be back.
    returns: Arc<watch::Sender<u64>>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    failures: u32,
    error: String,
}

impl Default for Condition {
    fn default() -> Self {
        Condition { failing: Arc::default(), returns: Arc::new(watch::Sender::new(0)) }
    }
}

impl Condition {
    /// Which tables fail, for how long, how often and why; `None` if none does.
    pub fn trouble(&self) -> Option<String> {
        let told = |(table, failing): (&String, &Failing)| {
            let Failing { since, failures, error } = failing;
            format!("{table}: {failures} failures in {} s: {error}", since.elapsed().as_secs())
        };
        let told: Vec<String> = self.lock().iter().map(told).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Something that may pass has failed.
    pub(crate) fn failed(&self, table: &str, error: String) {
        let mut failing = self.lock();
        if failing.is_empty() {
            warn!(table, error, "compaction failed and is tried again; further failures are told when it goes on");
        } else {
            debug!(table, error, "compaction failed");
        }
        let entry = failing.entry(table.to_owned()).or_insert_with(|| Failing {
            since: Instant::now(),
            failures: 0,
            error: String::new(),
        });
        entry.failures += 1;
        entry.error = error;
        metrics::tables_failing(failing.len());
    }

    /// A table got on again.
    pub(crate) fn succeeded(&self, table: &str) {
        let mut failing = self.lock();
        let Some(ended) = failing.remove(table) else { return };
        metrics::tables_failing(failing.len());
        if failing.is_empty() {
            info!(table, failures = ended.failures, seconds = ended.since.elapsed().as_secs(), "compaction goes on");
        }
    }

    /// The store answers again: nobody needs to rest any longer.
    pub(crate) fn store_is_back(&self) {
        self.returns.send_modify(|returns| *returns += 1);
    }

    /// Tells when the store comes back from now on.
    pub(crate) fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes, each told once: those of the store's client repeat theirs.
pub(crate) fn in_one_line(error: impl Into<anyhow::Error>) -> String {
    let causes = |told: String, cause: String| match told.contains(&cause) {
        true => told,
        false => format!("{told}: {cause}"),
    };
    error.into().chain().map(ToString::to_string).reduce(causes).unwrap_or_default()
}

/// After failures in a row a table is left alone for longer and longer, at most this long.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// How long to leave a table alone after so many failures in a row.
pub(crate) fn rest(every: Duration, failures: u32) -> Duration {
    let doubled = every.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_BACKOFF.max(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_trouble_is_named_until_it_gets_on() {
        let condition = Condition::default();
        assert_eq!(condition.trouble(), None);
        condition.failed("events", "refused".into());
        condition.failed("events", "refused again".into());
        condition.failed("events__dead", "refused".into());
        let trouble = condition.trouble().unwrap();
        assert!(trouble.contains("events: 2 failures in 0 s: refused again; events__dead: 1"), "{trouble}");
        condition.succeeded("events");
        assert!(condition.trouble().unwrap().starts_with("events__dead"));
        condition.succeeded("events__dead");
        assert_eq!(condition.trouble(), None);
    }

    #[test]
    fn a_cause_that_an_error_tells_itself_is_not_told_again() {
        let error = anyhow::anyhow!("refused").context("HTTP error: refused").context("list events");
        assert_eq!(in_one_line(error), "list events: HTTP error: refused");
    }

    #[test]
    fn rests_get_longer_up_to_five_minutes() {
        let rests = |every| (0..8).map(|n| rest(Duration::from_secs(every), n).as_secs()).collect::<Vec<_>>();
        assert_eq!(rests(30), [30, 30, 60, 120, 240, 300, 300, 300]);
        assert_eq!(rests(600), [600; 8]);
    }
}
