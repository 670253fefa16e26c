//! What librdkafka tells about itself: its log lines, and whether it reaches a broker.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Whether the brokers can be reached, as far as librdkafka has noticed.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    down: Option<String>,
    fatal: Option<String>,
    closed: bool,
}

impl Health {
    pub(super) fn check(&self) -> Result<(), Trouble> {
        let state = self.lock();
        match (&state.fatal, &state.down) {
            (Some(reason), _) => Err(Trouble::Fatal(reason.clone())),
            (None, Some(reason)) => Err(Trouble::Down(reason.clone())),
            (None, None) => Ok(()),
        }
    }

    /// A broker has answered.
    pub(super) fn up(&self) {
        self.lock().down = None;
    }

    /// No broker answers.
    pub(super) fn down(&self, reason: String) {
        self.lock().down = Some(reason);
        self.changed.notify_all();
    }

    /// The producer that had given up was replaced.
    pub(super) fn renewed(&self) {
        self.lock().fatal = None;
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for trouble, then `pause` longer; `None` once the log is closed.
    pub(super) fn wait_for_trouble(&self, pause: Duration) -> Option<Trouble> {
        let mut state = self.lock();
        while state.down.is_none() && state.fatal.is_none() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closed {
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        match (state.closed, &state.fatal, &state.down) {
            (true, _, _) => None,
            (false, Some(reason), _) => Some(Trouble::Fatal(reason.clone())),
            (false, None, reason) => Some(Trouble::Down(reason.clone().unwrap_or_default())),
        }
    }

    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let mut state = self.lock();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => state.down = Some(reason.to_owned()),
            Some(RDKafkaErrorCode::Fatal) => state.fatal = Some(reason.to_owned()),
            // Wrong credentials do not heal by themselves, but a broker may be told new ones.
            Some(RDKafkaErrorCode::Authentication) => state.down = Some(reason.to_owned()),
            _ => {}
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the brokers take no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    Down(String),
    /// The producer has given up its guarantees; only a new one helps.
    Fatal(String),
}

impl Trouble {
    pub(super) fn reason(&self) -> &str {
        match self {
            Trouble::Down(reason) | Trouble::Fatal(reason) => reason,
        }
    }
}

/// Passes a line of librdkafka's log on.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            error!(facility, line, "librdkafka")
        }
        // librdkafka retries whatever it calls an error here; what is final comes as a delivery report.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => warn!(facility, line, "librdkafka"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => info!(facility, line, "librdkafka"),
        RDKafkaLogLevel::Debug => debug!(facility, line, "librdkafka"),
    }
}

/// The context of clients that only administer, and of readers without a group.
#[derive(Debug, Default)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client error");
    }
}

impl ConsumerContext for Quiet {}
