//! When to leave a dependency alone: the state machine of a circuit breaker. Pure: the time and the jitter come in.
//!
//! *Closed*, every call goes through. After some failures in a row it *opens*: no call goes through for a while. Then it
//! is *half-open*: exactly one call goes through, and its outcome closes the circuit or opens it for longer.
//!
//! A call counts only in the phase in which it was let through. What a slow call says about the time before the circuit
//! opened must neither close it nor open it again.

use std::time::{Duration, Instant};

/// When to open, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Failures in a row that open the circuit.
    pub failures: u32,
    /// Two failures in a row are enough if the first is so old: calls that time out are slow to fail.
    pub failing_for: Duration,
    /// How long it stays open at first; twice as long each time that the one call fails.
    pub first_wait: Duration,
    pub longest_wait: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            failures: 5,
            failing_for: Duration::from_secs(10),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(30),
        }
    }
}

/// The state as the outside sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

/// Permission for one call; goes back with the call's outcome.
#[derive(Debug)]
#[must_use]
pub struct Pass {
    phase: u64,
}

/// Why a call may not be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Open: nobody calls before then.
    Until(Instant),
    /// Half-open: another call is finding out.
    ProbeUnderWay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    HalfOpen,
    Open { until: Instant },
}

/// One circuit.
#[derive(Debug)]
pub struct Circuit {
    policy: Policy,
    phase: Phase,
    /// Counts the phases, so that outcomes of earlier ones are known.
    number: u64,
    /// In a row, up to now.
    failures: u32,
    failing_since: Option<Instant>,
    next_wait: Duration,
}

impl Circuit {
    pub fn new(policy: Policy) -> Circuit {
        let next_wait = policy.first_wait;
        Circuit { policy, phase: Phase::Closed, number: 0, failures: 0, failing_since: None, next_wait }
    }

    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::HalfOpen => State::HalfOpen,
            Phase::Open { .. } => State::Open,
        }
    }

    /// Failures in a row, up to now.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next call may go through, if that is later.
    pub fn opens_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { until } => Some(until),
            Phase::Closed | Phase::HalfOpen => None,
        }
    }

    /// Lets a call through, or says why not.
    pub fn admit(&mut self, now: Instant) -> Result<Pass, Refusal> {
        match self.phase {
            Phase::Closed => {}
            Phase::HalfOpen => return Err(Refusal::ProbeUnderWay),
            Phase::Open { until } if now < until => return Err(Refusal::Until(until)),
            Phase::Open { .. } => self.enter(Phase::HalfOpen),
        }
        Ok(Pass { phase: self.number })
    }

    pub fn succeeded(&mut self, pass: Pass) {
        if pass.phase != self.number {
            return;
        }
        (self.failures, self.failing_since) = (0, None);
        if self.phase == Phase::HalfOpen {
            self.next_wait = self.policy.first_wait;
            self.enter(Phase::Closed);
        }
    }

    /// `jitter` in `[0, 1]` spreads the waits over their upper half, so that many processes do not come back at once.
    pub fn failed(&mut self, pass: Pass, now: Instant, jitter: f64) {
        if pass.phase != self.number {
            return;
        }
        self.failures += 1;
        let since = *self.failing_since.get_or_insert(now);
        let long = self.failures > 1 && now.duration_since(since) >= self.policy.failing_for;
        if self.phase == Phase::HalfOpen || self.failures >= self.policy.failures || long {
            let wait = self.next_wait.mul_f64(0.5 + jitter / 2.0);
            self.next_wait = (self.next_wait * 2).min(self.policy.longest_wait);
            self.enter(Phase::Open { until: now + wait });
        }
    }

    /// A call ended without an outcome: the next one finds out.
    pub fn gave_up(&mut self, pass: Pass, now: Instant) {
        if pass.phase == self.number && self.phase == Phase::HalfOpen {
            self.enter(Phase::Open { until: now });
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.number += 1;
    }
}

#[cfg(test)]
mod tests;
