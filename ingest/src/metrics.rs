//! The facts that the gateway counts, one function each; only this file knows the series.
//!
//! Labels come from small closed sets: configured datasets, reasons, status codes, never anything that a device sends.
//! Install the recorder before [`crate::router`] or [`crate::serve()`]: handles of hot series are made there.

use crate::answer::{Report, Why};
use crate::spill::Depth;
use axum::http::StatusCode;
use lake::dataset::Priority;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::sync::Arc;
use std::time::Duration;

const ACCEPTED: &str = "lakehose_ingest_events_accepted_total";
const DUPLICATE: &str = "lakehose_ingest_events_duplicate_total";
const REFUSED: &str = "lakehose_ingest_events_refused_total";
const REQUESTS: &str = "lakehose_ingest_requests_total";
const REQUESTS_REFUSED: &str = "lakehose_ingest_requests_refused_total";
const RECEIVED_BYTES: &str = "lakehose_ingest_body_received_bytes_total";
const BODY_BYTES: &str = "lakehose_ingest_body_bytes_total";
const APPEND_SECONDS: &str = "lakehose_ingest_append_seconds";
const BREAKER_OPEN: &str = "lakehose_ingest_breaker_open";
const OLDEST_APPEND: &str = "lakehose_ingest_oldest_append_seconds";
const HELD_BACK: &str = "lakehose_ingest_breaker_refused_total";
const SPILL_EVENTS: &str = "lakehose_ingest_spill_events";
const SPILL_BYTES: &str = "lakehose_ingest_spill_bytes";
const SPILL_OLDEST: &str = "lakehose_ingest_spill_oldest_seconds";
const SPILLED: &str = "lakehose_ingest_spilled_total";
const DRAINED: &str = "lakehose_ingest_spill_drained_total";
const SET_ASIDE: &str = "lakehose_ingest_spill_refused_total";
const IN_FLIGHT: &str = "lakehose_ingest_in_flight_bytes";
const CONNECTIONS: &str = "lakehose_ingest_connections";
const BUSY: &str = "lakehose_ingest_requests_busy_total";
const LIMITED: &str = "lakehose_ingest_limited_total";
const AUTHENTICATION_FAILURES: &str = "lakehose_ingest_authentication_failures_total";
const CREDENTIALS_RELOADED: &str = "lakehose_ingest_credentials_reloads_total";
const CREDENTIALS_STALE: &str = "lakehose_ingest_credentials_stale";
const TLS_FAILURES: &str = "lakehose_ingest_tls_failures_total";
const TLS_RELOADS: &str = "lakehose_ingest_tls_reloads_total";
const TLS_EXPIRES: &str = "lakehose_ingest_tls_certificate_expires_timestamp_seconds";
const LIMITER_BUSY: &str = "lakehose_ingest_limiter_busy_ratio";
const KEYED: &str = "lakehose_ingest_idempotency_requests_total";
const KEYS: &str = "lakehose_ingest_idempotency_keys";
const KEY_BYTES: &str = "lakehose_ingest_idempotency_bytes";
const KEYS_EVICTED: &str = "lakehose_ingest_idempotency_evicted_total";
const KEYS_EVICTED_AGE: &str = "lakehose_ingest_idempotency_evicted_age_seconds";

/// Tells the recorder what each series means.
pub fn describe() {
    describe_counter!(ACCEPTED, "Events that are durable in the log and were answered so");
    describe_counter!(DUPLICATE, "Events that repeated an id within their request and were not stored again");
    describe_counter!(REFUSED, "Events that were refused, by reason; events of bodies never read are not known");
    describe_counter!(REQUESTS, "Requests answered, by status");
    describe_counter!(REQUESTS_REFUSED, "Requests refused as a whole, by the name of the problem");
    describe_counter!(RECEIVED_BYTES, Unit::Bytes, "Bytes of bodies read to their end, as they came");
    describe_counter!(BODY_BYTES, Unit::Bytes, "Bytes of bodies read to their end, after decompression");
    describe_histogram!(
        APPEND_SECONDS,
        Unit::Seconds,
        "Time that the log took to make the events of a request durable"
    );
    describe_gauge!(BREAKER_OPEN, "1 while a dataset's requests are answered 503 at once, for its log does not answer");
    describe_gauge!(OLDEST_APPEND, Unit::Seconds, "How long the oldest append has been waiting for the log");
    describe_counter!(HELD_BACK, "Requests refused before their body was read, with the breaker open or the log slow");
    describe_gauge!(SPILL_EVENTS, "Events that wait in the queue on disk for the log");
    describe_gauge!(SPILL_BYTES, Unit::Bytes, "Bytes of events that wait in the queue on disk");
    describe_gauge!(SPILL_OLDEST, Unit::Seconds, "Age of the oldest event in the queue on disk");
    describe_counter!(SPILLED, "Events that went to the queue on disk, and were answered so");
    describe_counter!(DRAINED, "Events that went from the queue on disk to the log");
    describe_counter!(
        SET_ASIDE,
        "Events in the queue on disk that the log refused for good; a file beside it has them"
    );
    describe_gauge!(IN_FLIGHT, Unit::Bytes, "Bytes that requests under way hold, of max_in_flight");
    describe_gauge!(CONNECTIONS, "Open connections, of max_connections");
    describe_counter!(
        BUSY,
        "Requests refused because the bytes in flight are spent, as far as their class may fill them"
    );
    describe_counter!(LIMITED, "Events that must come later because of this limit");
    describe_counter!(AUTHENTICATION_FAILURES, "Requests without good credentials, by reason");
    describe_counter!(
        CREDENTIALS_RELOADED,
        "Times that the file of keys or the JWKS had changed, by outcome (ok, failed)"
    );
    describe_gauge!(
        CREDENTIALS_STALE,
        "1 while the file (keys, jwks) cannot be used and what it was before is in force"
    );
    describe_counter!(TLS_FAILURES, "TLS handshakes that did not come to their end, by reason");
    describe_counter!(TLS_RELOADS, "New files of certificates, by outcome: ok, or failed and the old ones stay");
    describe_gauge!(TLS_EXPIRES, Unit::Seconds, "When the certificate in use expires, in seconds since 1970");
    describe_gauge!(LIMITER_BUSY, "Share of a limiter's cells in use: above 0.3, raise max_keys");
    describe_counter!(
        KEYED,
        "Requests with an Idempotency-Key: first of their key, replayed, resumed, with other_body, or in_use for too long"
    );
    describe_gauge!(KEYS, "Idempotency keys that are remembered");
    describe_gauge!(KEY_BYTES, Unit::Bytes, "Bytes that they take, of idempotency_memory");
    describe_counter!(KEYS_EVICTED, "Idempotency keys forgotten before their time: idempotency_memory is spent");
    describe_gauge!(
        KEYS_EVICTED_AGE,
        Unit::Seconds,
        "Age of the key that was forgotten last before its time: how long keys are remembered now"
    );
}

/// Series of the gateway as a whole.
pub(crate) struct GatewayMetrics {
    accepted_requests: Counter,
    received_bytes: Counter,
    body_bytes: Counter,
    append_seconds: Histogram,
}

impl GatewayMetrics {
    pub(crate) fn new() -> GatewayMetrics {
        GatewayMetrics {
            accepted_requests: counter!(REQUESTS, "status" => "202"),
            received_bytes: counter!(RECEIVED_BYTES),
            body_bytes: counter!(BODY_BYTES),
            append_seconds: histogram!(APPEND_SECONDS),
        }
    }

    pub(crate) fn accepted(&self) {
        self.accepted_requests.increment(1);
    }

    pub(crate) fn body_read(&self, received: usize, bytes: usize) {
        self.received_bytes.increment(received as u64);
        self.body_bytes.increment(bytes as u64);
    }

    pub(crate) fn appended(&self, took: Duration) {
        self.append_seconds.record(took);
    }
}

/// Why the log is spared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held {
    Open,
    Slow,
}

/// Series of one dataset.
pub(crate) struct DatasetMetrics {
    dataset: Arc<str>,
    accepted: Counter,
    duplicates: Counter,
}

impl DatasetMetrics {
    pub(crate) fn new(dataset: &str) -> DatasetMetrics {
        let dataset: Arc<str> = dataset.into();
        DatasetMetrics {
            accepted: counter!(ACCEPTED, "dataset" => Arc::clone(&dataset)),
            duplicates: counter!(DUPLICATE, "dataset" => Arc::clone(&dataset)),
            dataset,
        }
    }

    /// The fate of every event of a request.
    pub(crate) fn decided(&self, report: &Report) {
        self.accepted.increment(report.accepted as u64);
        self.duplicates.increment(report.duplicates as u64);
        // Runs of one reason are the rule, and a registry look-up per event would be a cost that strangers control.
        for run in report.rejected.chunk_by(|a, b| a.reason == b.reason) {
            self.refused(run[0].reason, run.len());
        }
    }

    /// A request for which there was no room.
    pub(crate) fn busy(&self, class: Priority) {
        counter!(BUSY, "dataset" => Arc::clone(&self.dataset), "priority" => class.as_str()).increment(1);
    }

    /// A request refused to spare the log.
    pub(crate) fn held_back(&self, why: Held) {
        let why = match why {
            Held::Open => "open",
            Held::Slow => "slow",
        };
        counter!(HELD_BACK, "dataset" => Arc::clone(&self.dataset), "why" => why).increment(1);
    }

    pub(crate) fn breaker(&self, is_open: bool, oldest: Duration) {
        gauge!(BREAKER_OPEN, "dataset" => Arc::clone(&self.dataset)).set(f64::from(u8::from(is_open)));
        gauge!(OLDEST_APPEND, "dataset" => Arc::clone(&self.dataset)).set(oldest.as_secs_f64());
    }

    /// Events refused before they were looked at.
    pub(crate) fn refused(&self, why: Why, events: usize) {
        counter!(REFUSED, "dataset" => Arc::clone(&self.dataset), "reason" => why.as_str()).increment(events as u64);
    }
}

/// Series of the queue on disk of one dataset.
pub(crate) struct SpillMetrics {
    events: Gauge,
    bytes: Gauge,
    oldest: Gauge,
    spilled: Counter,
    drained: Counter,
    set_aside: Counter,
}

impl SpillMetrics {
    pub(crate) fn new(dataset: &str) -> SpillMetrics {
        let dataset: Arc<str> = dataset.into();
        SpillMetrics {
            events: gauge!(SPILL_EVENTS, "dataset" => Arc::clone(&dataset)),
            bytes: gauge!(SPILL_BYTES, "dataset" => Arc::clone(&dataset)),
            oldest: gauge!(SPILL_OLDEST, "dataset" => Arc::clone(&dataset)),
            spilled: counter!(SPILLED, "dataset" => Arc::clone(&dataset)),
            drained: counter!(DRAINED, "dataset" => Arc::clone(&dataset)),
            set_aside: counter!(SET_ASIDE, "dataset" => dataset),
        }
    }

    pub(crate) fn depth(&self, depth: Depth) {
        self.events.set(depth.events as f64);
        self.bytes.set(depth.bytes as f64);
        self.oldest.set(depth.oldest.as_secs_f64());
    }

    pub(crate) fn spilled(&self, events: u64) {
        self.spilled.increment(events);
    }

    pub(crate) fn drained(&self, events: u64) {
        self.drained.increment(events);
    }

    pub(crate) fn set_aside(&self) {
        self.set_aside.increment(1);
    }
}

/// A request refused as a whole.
pub(crate) fn refused(status: StatusCode, problem: &'static str) {
    counter!(REQUESTS, "status" => status.as_str().to_owned()).increment(1);
    counter!(REQUESTS_REFUSED, "problem" => problem).increment(1);
}

/// Credentials that were missing or not good.
pub(crate) fn authentication_failed(reason: &'static str) {
    counter!(AUTHENTICATION_FAILURES, "reason" => reason).increment(1);
}

/// A file of credentials that has changed.
pub(crate) fn credentials_reloaded(file: &'static str, is_good: bool) {
    counter!(CREDENTIALS_RELOADED, "file" => file, "outcome" => outcome(is_good)).increment(1);
}

pub(crate) fn credentials_stale(file: &'static str, is_stale: bool) {
    gauge!(CREDENTIALS_STALE, "file" => file).set(f64::from(u8::from(is_stale)));
}

pub(crate) fn in_flight(bytes: usize) {
    gauge!(IN_FLIGHT).set(bytes as f64);
}

pub(crate) fn connections(open: usize) {
    gauge!(CONNECTIONS).set(open as f64);
}

pub(crate) fn tls_failed(reason: &'static str) {
    counter!(TLS_FAILURES, "reason" => reason).increment(1);
}

/// A certificate is in use from now on. `expires` is in seconds since the epoch.
pub(crate) fn tls_loaded(expires: i64) {
    gauge!(TLS_EXPIRES).set(expires as f64);
}

/// Files of certificates that have changed.
pub(crate) fn tls_reloaded(is_good: bool) {
    counter!(TLS_RELOADS, "outcome" => outcome(is_good)).increment(1);
}

fn outcome(is_good: bool) -> &'static str {
    if is_good { "ok" } else { "failed" }
}

/// Counts events that a limit refuses.
pub(crate) fn limited(limit: &'static str) -> Counter {
    counter!(LIMITED, "limit" => limit)
}

pub(crate) fn limiter_busy(limit: &'static str, ratio: f64) {
    gauge!(LIMITER_BUSY, "limit" => limit).set(ratio);
}

pub(crate) fn idempotency(outcome: &'static str) {
    counter!(KEYED, "outcome" => outcome).increment(1);
}

pub(crate) fn idempotency_memory(keys: usize, bytes: usize) {
    gauge!(KEYS).set(keys as f64);
    gauge!(KEY_BYTES).set(bytes as f64);
}

pub(crate) fn idempotency_evicted(age: Duration) {
    counter!(KEYS_EVICTED).increment(1);
    gauge!(KEYS_EVICTED_AGE).set(age.as_secs_f64());
}
