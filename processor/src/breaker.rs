//! Circuit breakers of what a processor needs: the object store, the log's broker, and the committer. One each, per
//! dataset.
//!
//! A call is made in [`Attempts`]: each waits for its backoff and for the breakers that it goes through. So a store that
//! is down gets one call at a time, later and later, however many flushes wait for it; the worker reads no further
//! meanwhile, and memory stays flat.
//!
//! No crate does this: `failsafe` and `recloser` let every call through while half-open, can make nobody wait, and do not
//! tell when the next try is.

use crate::circuit::{Circuit, Pass, Policy, Refusal, State};
use crate::failure::{Class, in_one_line, with_advice};
use crate::metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

const ASK_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// The breakers of one dataset. Clones share them.
#[derive(Debug, Clone)]
pub struct Breakers {
    store: Arc<Breaker>,
    broker: Arc<Breaker>,
    committer: Arc<Breaker>,
}

impl Breakers {
    pub fn new(dataset: &str) -> Breakers {
        Breakers::with_policy(dataset, Policy::default())
    }

    fn with_policy(dataset: &str, policy: Policy) -> Breakers {
        let breaker = |dependency, policy| Arc::new(Breaker::new(dataset, dependency, policy));
        // A question is one small request, and before it the log's client has a backoff of its own.
        let asking = Policy { longest_wait: policy.longest_wait.min(ASK_AT_LEAST_EVERY), ..policy };
        Breakers {
            store: breaker("store", policy),
            broker: breaker("broker", asking),
            committer: breaker("committer", policy),
        }
    }

    /// What is down, since when it was tried how often, and why; `None` if every breaker is closed.
    pub fn trouble(&self) -> Option<String> {
        let all = [&self.store, &self.broker, &self.committer];
        let told: Vec<String> = all.into_iter().filter_map(|breaker| breaker.trouble(Instant::now())).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    pub(crate) fn are_closed(&self) -> bool {
        self.broker.is_closed() && self.let_flushes_through()
    }

    /// Whether what was read can go on its way.
    pub(crate) fn let_flushes_through(&self) -> bool {
        self.store.is_closed() && self.committer.is_closed()
    }

    /// For an upload.
    pub(crate) fn uploads(&self) -> Attempts {
        Attempts::through(vec![Arc::clone(&self.store)])
    }

    /// For reading or changing the table, which lies in the store: a breaker of its own as well, for uploads may work
    /// while commits do not.
    pub(crate) fn commits(&self) -> Attempts {
        Attempts::through(vec![Arc::clone(&self.committer), Arc::clone(&self.store)])
    }

    /// For a record of the control topic, without which nothing is committed.
    pub(crate) fn announcements(&self) -> Attempts {
        Attempts::through(vec![Arc::clone(&self.broker)])
    }

    /// For a question to the log.
    pub(crate) fn questions(&self) -> Attempts {
        Attempts::through(vec![Arc::clone(&self.broker)])
    }
}

/// Calls of one kind until one succeeds. Dropped in the middle of a call, it leaves the breakers to others.
#[derive(Debug)]
pub(crate) struct Attempts {
    breakers: Vec<Arc<Breaker>>,
    /// Of the call under way.
    permits: Vec<Permit>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Attempts {
    fn through(breakers: Vec<Arc<Breaker>>) -> Attempts {
        Attempts { breakers, permits: Vec::new(), backoff: Backoff::default(), not_before: None }
    }

    /// Waits for as long as the last failure makes advisable.
    pub(crate) async fn rest(&self) {
        if let Some(instant) = self.not_before {
            tokio::time::sleep_until(instant.into()).await;
        }
    }

    /// Waits until the next call may be made.
    pub(crate) async fn begin(&mut self) {
        self.rest().await;
        self.permits.clear();
        for breaker in &self.breakers {
            let permit = breaker.permit().await;
            self.permits.push(permit);
        }
    }

    /// The same for a thread that must not wait: whether the call may be made now.
    pub(crate) fn try_begin(&mut self) -> bool {
        let now = Instant::now();
        if self.not_before.is_some_and(|instant| now < instant) {
            return false;
        }
        self.permits = self.breakers.iter().map_while(|breaker| breaker.try_permit(now).ok()).collect();
        let admitted = self.permits.len() == self.breakers.len();
        if !admitted {
            self.permits.clear();
        }
        admitted
    }

    pub(crate) fn succeeded(&mut self) {
        self.permits.drain(..).for_each(Permit::succeeded);
        (self.backoff, self.not_before) = (Backoff::default(), None);
    }

    /// Calls until it works, or cannot work.
    pub(crate) async fn repeat<T, F>(mut self, call: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        loop {
            self.begin().await;
            match call().await {
                Ok(done) => {
                    self.succeeded();
                    return Ok(done);
                }
                Err(err) => self.failed(err)?,
            }
        }
    }

    /// Counts a failure that may pass; any other comes back, with what to do about it.
    pub(crate) fn failed(&mut self, err: anyhow::Error) -> anyhow::Result<()> {
        if Class::of(&err) == Class::Fatal {
            return Err(with_advice(err));
        }
        self.failed_for_now(&err);
        Ok(())
    }

    /// Counts a failure that is known to pass.
    pub(crate) fn failed_for_now(&mut self, err: &anyhow::Error) {
        let error = in_one_line(err);
        self.permits.drain(..).for_each(|permit| permit.failed(&error));
        let dataset = self.breakers.first().map(|breaker| breaker.dataset.as_str());
        if self.breakers.iter().all(|breaker| breaker.is_closed()) {
            warn!(dataset, error, "failed, trying again");
            self.not_before = Some(Instant::now() + self.backoff.next(rand::random_range(0.5..1.0)));
        } else {
            // The opening was told, and the wait is the breaker's.
            debug!(dataset, error, "failed, trying again");
            self.not_before = None;
        }
    }
}

/// Exponential waits between the calls of one caller.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    const LONGEST: Duration = Duration::from_secs(10);

    fn next(&mut self, jitter: f64) -> Duration {
        let wait = self.next.mul_f64(jitter);
        self.next = (self.next * 2).min(Backoff::LONGEST);
        wait
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: Duration::from_millis(100) }
    }
}

/// One circuit, shared, and told of outside.
#[derive(Debug)]
struct Breaker {
    dataset: String,
    dependency: &'static str,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    circuit: Circuit,
    last_error: String,
}

impl Breaker {
    fn new(dataset: &str, dependency: &'static str, policy: Policy) -> Breaker {
        let inner = Mutex::new(Inner { circuit: Circuit::new(policy), last_error: String::new() });
        metrics::breaker_state(dataset, dependency, State::Closed);
        Breaker { dataset: dataset.to_owned(), dependency, inner, changed: Notify::new() }
    }

    fn is_closed(&self) -> bool {
        self.lock().circuit.state() == State::Closed
    }

    fn trouble(&self, now: Instant) -> Option<String> {
        let inner = self.lock();
        let (failures, error) = (inner.circuit.failures(), &inner.last_error);
        let what = match (inner.circuit.state(), inner.circuit.opens_until()) {
            (State::Closed, _) => return None,
            (State::Open, Some(until)) => {
                let wait = until.saturating_duration_since(now).as_secs_f64();
                format!("open after {failures} failures, next try in {wait:.1} s")
            }
            (State::HalfOpen | State::Open, _) => format!("half-open after {failures} failures, trying now"),
        };
        Some(format!("{}: {what}: {error}", self.dependency))
    }

    async fn permit(self: &Arc<Breaker>) -> Permit {
        loop {
            // Made before the question, so that no change is missed.
            let changed = self.changed.notified();
            match self.try_permit(Instant::now()) {
                Ok(permit) => return permit,
                Err(Refusal::ProbeUnderWay) => changed.await,
                Err(Refusal::Until(instant)) => {
                    let _ = tokio::time::timeout_at(instant.into(), changed).await;
                }
            }
        }
    }

    fn try_permit(self: &Arc<Breaker>, now: Instant) -> Result<Permit, Refusal> {
        let pass = self.change(|circuit| circuit.admit(now))?;
        Ok(Permit { breaker: Arc::clone(self), pass: Some(pass) })
    }

    /// Does something to the circuit, and tells if it changed its state.
    fn change<T>(&self, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.circuit.state();
        let result = change(&mut inner.circuit);
        let (after, failures) = (inner.circuit.state(), inner.circuit.failures());
        if before == after {
            return result;
        }
        let (dataset, dependency) = (self.dataset.as_str(), self.dependency);
        metrics::breaker_state(dataset, dependency, after);
        match (before, after) {
            (State::Closed, State::Open) => {
                metrics::breaker_opened(dataset, dependency);
                let error = inner.last_error.as_str();
                warn!(dataset, dependency, failures, error, "breaker opened; partitions pause until it is closed");
            }
            (_, State::Closed) => info!(dataset, dependency, "breaker closed"),
            (_, State::Open | State::HalfOpen) => debug!(dataset, dependency, failures, ?after, "breaker"),
        }
        drop(inner);
        self.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call through one breaker.
#[derive(Debug)]
struct Permit {
    breaker: Arc<Breaker>,
    pass: Option<Pass>,
}

impl Permit {
    fn succeeded(mut self) {
        if let Some(pass) = self.pass.take() {
            self.breaker.change(|circuit| circuit.succeeded(pass));
        }
    }

    fn failed(mut self, error: &str) {
        if let Some(pass) = self.pass.take() {
            self.breaker.lock().last_error = error.to_owned();
            self.breaker.change(|circuit| circuit.failed(pass, Instant::now(), rand::random()));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.breaker.change(|circuit| circuit.gave_up(pass, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests;
