//! What an operator can set: the sections `[ingest]` and `[limits]`.
//!
//! Every bound on memory and time of the gateway is here, with a default that runs on a laptop. There is no way to
//! switch a bound off, only to set it high.

mod limit;

pub use limit::Limit;
pub(crate) use limit::Rate;

use crate::proxies::{ProxyHeader, TrustedProxies};
use crate::tls::Tls;
use bytesize::ByteSize;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// All that the gateway is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// The section `[ingest]`.
    pub http: Http,
    /// The section `[limits]`.
    pub limits: Limits,
    /// The section `[tls]`.
    pub tls: Tls,
}

/// Sizes and times of requests: the section `[ingest]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Largest request body accepted, as it comes and after decompression.
    pub max_body: ByteSize,
    /// Most events in one request. Less if half of `max_in_flight` could not hold their records.
    pub max_events: u32,
    /// Most bytes of all requests under way together; requests beyond it are answered 503. At least twice `max_body`,
    /// and 9 MiB more for every zstd body with the largest window that is to be decompressed at a time. Only a request
    /// that is alone may take more: what a body of `max_body` needs to be decompressed, or translated from CloudEvents.
    pub max_in_flight: ByteSize,
    /// Most connections open at once; further ones wait in the kernel's queue.
    pub max_connections: u32,
    /// A new connection must send a whole request head within this time.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// A connection kept alive must send the head of its next request within this time.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// A request must send its whole body within this time.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// The least that a body must bring a second, over each `min_rate_window`; who sends less is cut off.
    pub min_rate: ByteSize,
    /// Over how long `min_rate` is measured: for nearly as long a network may stall.
    #[serde(with = "humantime_serde")]
    pub min_rate_window: Duration,
    /// Longest wait for the log to report events as durable. More than Kafka's own delivery time-out (30 s), so that
    /// the log usually says itself what became of them.
    #[serde(with = "humantime_serde")]
    pub append_timeout: Duration,
    /// With an append unanswered for so long, or several failed in a row, requests are answered 503 at once, until the log
    /// answers again. Datasets of low priority are refused at half of it, those of normal priority at three quarters.
    #[serde(with = "humantime_serde")]
    pub breaker_after: Duration,
    /// How long the answer to a request with an `Idempotency-Key` is remembered for who sends it again. 0s: such headers
    /// are ignored.
    #[serde(with = "humantime_serde")]
    pub idempotency_window: Duration,
    /// Most bytes of remembered answers; beyond it the oldest are forgotten early. A usual one takes 200 bytes.
    pub idempotency_memory: ByteSize,
    /// Longest wait for a request of the same key that is still under way.
    #[serde(with = "humantime_serde")]
    pub idempotency_wait: Duration,
    /// At shutdown, requests under way may take this long to finish.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Addresses and networks of proxies that say whom they forward for. Nobody else is believed.
    pub trusted_proxies: TrustedProxies,
    /// The header in which they say it.
    pub proxy_header: ProxyHeader,
    /// A log line for each request: who posted, where to, how many events, and what became of them.
    pub audit: bool,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            max_body: ByteSize::mib(8),
            max_events: 50_000,
            max_in_flight: ByteSize::mib(256),
            max_connections: 16_384,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            min_rate: ByteSize::kib(1),
            min_rate_window: Duration::from_secs(10),
            append_timeout: Duration::from_secs(35),
            breaker_after: Duration::from_secs(2),
            idempotency_window: Duration::from_secs(2 * 3600),
            idempotency_memory: ByteSize::mib(64),
            idempotency_wait: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(40),
            trusted_proxies: TrustedProxies::default(),
            proxy_header: ProxyHeader::default(),
            audit: false,
        }
    }
}

impl Http {
    /// What a body must bring in each `min_rate_window`: at least one byte.
    pub(crate) fn window_bytes(&self) -> usize {
        // `as` saturates.
        ((self.min_rate.as_u64() as f64 * self.min_rate_window.as_secs_f64()) as usize).max(1)
    }
}

/// Rate limits: the section `[limits]`. Absent means no limit of that kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// For each `device_id`; an event's bytes are those of its JSON text.
    pub per_device: Option<Limit>,
    /// For each API key, by its name; who posts without one has none. From here on bytes are those of the body, after
    /// decompression.
    pub per_key: Option<Limit>,
    /// For each address that connects, or that a trusted proxy names; an IPv6 address counts by its /64 network.
    pub per_ip: Option<Limit>,
    /// For each dataset, unless `datasets` names it.
    pub per_dataset: Option<Limit>,
    /// For this gateway as a whole.
    pub global: Option<Limit>,
    /// Limits of single datasets, in the place of `per_dataset`.
    pub datasets: BTreeMap<String, Limit>,
    /// Devices (and keys, and addresses) that are told apart without error. Each rate of `per_device`, `per_key` and
    /// `per_ip` takes 16 to 32 bytes for each, whether used or not. With more than this active at once, some are held
    /// back too early, never too late.
    pub max_keys: u32,
}

impl Limits {
    /// The limit of one dataset.
    pub(crate) fn of_dataset(&self, name: &str) -> Option<Limit> {
        self.datasets.get(name).copied().or(self.per_dataset)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            per_device: None,
            per_key: None,
            per_ip: None,
            per_dataset: None,
            global: None,
            datasets: BTreeMap::new(),
            max_keys: 1_000_000,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct ConfigError {
    pub field: &'static str,
    pub problem: &'static str,
}

impl Config {
    /// Checks what types alone cannot. The message says what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Http { max_body, max_events, max_in_flight, max_connections, min_rate, .. } = self.http;
        let invalid = |field, problem| Err(ConfigError { field, problem });
        if !(1..=u64::from(u32::MAX)).contains(&max_body.as_u64()) {
            return invalid("max_body", "must be between 1 byte and 4 GiB");
        }
        if max_in_flight.as_u64() / 2 < max_body.as_u64() {
            return invalid("max_in_flight", "must be at least twice `max_body`");
        }
        if min_rate.as_u64() == 0 {
            return invalid("min_rate", "must be at least 1 byte");
        }
        if max_events == 0 {
            return invalid("max_events", "must be at least 1");
        }
        if max_connections == 0 {
            return invalid("max_connections", "must be at least 1");
        }
        if self.http.idempotency_memory < ByteSize::mib(1) {
            return invalid(
                "idempotency_memory",
                "must be at least 1MiB; `idempotency_window = \"0s\"` switches idempotency keys off",
            );
        }
        if !(1..=1 << 28).contains(&self.limits.max_keys) {
            return invalid("max_keys", "must be between 1 and 268435456");
        }
        for (field, timeout) in [
            ("header_timeout", self.http.header_timeout),
            ("idle_timeout", self.http.idle_timeout),
            ("body_timeout", self.http.body_timeout),
            ("min_rate_window", self.http.min_rate_window),
            ("append_timeout", self.http.append_timeout),
            ("breaker_after", self.http.breaker_after),
        ] {
            if timeout.is_zero() {
                return invalid(field, "must be longer than 0s");
            }
        }
        self.tls.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_example() {
        let http: Http = serde_json::from_str(r#"{"max_body":"8MiB","max_in_flight":"256MiB"}"#).unwrap();
        assert_eq!(http, Http::default());
        let limits: Limits =
            serde_json::from_str(r#"{"per_device":{"events_per_second":100,"burst":1000},"per_ip":null}"#).unwrap();
        assert_eq!(limits.per_device, Some(Limit::new(100.0, 1000).unwrap()));
        assert_eq!(limits.global, None);
    }

    #[test]
    fn refuses_unknown_fields() {
        assert!(serde_json::from_str::<Http>(r#"{"max_boddy":"1MiB"}"#).is_err());
        assert!(serde_json::from_str::<Limits>(r#"{"per_devices":null}"#).is_err());
    }

    #[test]
    fn a_dataset_has_the_limit_of_all_or_its_own() {
        let limits: Limits = serde_json::from_str(
            r#"{"per_dataset":{"events_per_second":1},"datasets":{"trips":{"events_per_second":2}}}"#,
        )
        .unwrap();
        assert_eq!(limits.of_dataset("events"), Some(Limit::new(1.0, 1).unwrap()));
        assert_eq!(limits.of_dataset("trips"), Some(Limit::new(2.0, 2).unwrap()));
        assert_eq!(Limits::default().of_dataset("trips"), None);
    }

    #[test]
    fn refuses_a_budget_that_no_request_of_the_largest_size_fits_in() {
        let mut config = Config::default();
        assert_eq!(config.check(), Ok(()));
        config.http.max_in_flight = ByteSize::kib(1);
        assert_eq!(config.check().unwrap_err().field, "max_in_flight");
    }

    #[test]
    fn a_least_rate_that_lets_everybody_pass_is_refused() {
        let http = Http { min_rate: ByteSize::b(0), ..Http::default() };
        assert_eq!(Config { http, ..Config::default() }.check().unwrap_err().field, "min_rate");
        let http = Http { min_rate_window: Duration::ZERO, ..Http::default() };
        assert_eq!(Config { http, ..Config::default() }.check().unwrap_err().field, "min_rate_window");
        assert_eq!(Http::default().window_bytes(), 10 * 1024);
        let smallest = Http { min_rate: ByteSize::b(1), min_rate_window: Duration::from_millis(1), ..Http::default() };
        assert_eq!(smallest.window_bytes(), 1);
        assert_eq!(Http { min_rate: ByteSize(u64::MAX), ..Http::default() }.window_bytes(), usize::MAX);
    }

    #[test]
    fn refuses_a_memory_that_no_large_answer_fits_in() {
        let mut config = Config::default();
        config.http.idempotency_memory = ByteSize::kib(1_023);
        assert_eq!(config.check().unwrap_err().field, "idempotency_memory");
        config.http.idempotency_memory = ByteSize::mib(1);
        assert_eq!(config.check(), Ok(()));
    }
}
