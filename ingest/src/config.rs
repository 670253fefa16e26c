//! What an operator can set: the sections `[ingest]` and `[limits]`.
//!
//! Every bound on memory and time of the gateway is here, with a default that runs on a laptop. There is no way to
//! switch a bound off, only to set it high.

use bytesize::ByteSize;
use serde::Deserialize;
use std::num::NonZeroU32;
use std::time::Duration;

/// All that the gateway is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// The section `[ingest]`.
    pub http: Http,
    /// The section `[limits]`.
    pub limits: Limits,
}

/// Sizes and times of requests: the section `[ingest]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Largest request body accepted, after decompression.
    pub max_body: ByteSize,
    /// Most events in one request. Less if half of `max_in_flight` could not hold their records.
    pub max_events: u32,
    /// Most bytes of all requests under way together; requests beyond it are answered 503. At least twice `max_body`.
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
            append_timeout: Duration::from_secs(35),
            breaker_after: Duration::from_secs(2),
            idempotency_window: Duration::from_secs(2 * 3600),
            idempotency_memory: ByteSize::mib(64),
            idempotency_wait: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(40),
            audit: false,
        }
    }
}

/// Rate limits: the section `[limits]`. Absent means no limit of that kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// For each `device_id`.
    pub per_device: Option<Limit>,
    /// For each address that connects; an IPv6 address counts by its /64 network.
    pub per_ip: Option<Limit>,
    /// For this gateway as a whole.
    pub global: Option<Limit>,
    /// Devices (and addresses) that are told apart without error; memory is 16 to 32 bytes for each, whether used or
    /// not. With more than this active at once, some are held back too early, never too late.
    pub max_keys: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { per_device: None, per_ip: None, global: None, max_keys: 1_000_000 }
    }
}

/// A rate with a burst: `{ events_per_second = 100, burst = 1000 }`. Without `burst`, one second's worth.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "LimitSpec")]
pub struct Limit {
    events_per_second: f64,
    burst: NonZeroU32,
}

/// The longest time in which a burst may fill up again: beyond it nanoseconds would overflow.
const MAX_REFILL: Duration = Duration::from_secs(30 * 24 * 3600);

impl Limit {
    /// A limit of `events_per_second`, which may be a fraction, with room for `burst` events at once.
    pub fn new(events_per_second: f64, burst: u32) -> Result<Limit, ConfigError> {
        if !(events_per_second > 0.0 && events_per_second <= 1e9) {
            return Err(ConfigError { field: "events_per_second", problem: "must be above 0 and at most 1000000000" });
        }
        let Some(burst) = NonZeroU32::new(burst) else {
            return Err(ConfigError { field: "burst", problem: "must be at least 1" });
        };
        if f64::from(burst.get()) / events_per_second > MAX_REFILL.as_secs_f64() {
            return Err(ConfigError { field: "burst", problem: "must fill up within 30 days at `events_per_second`" });
        }
        Ok(Limit { events_per_second, burst })
    }

    /// Events that may come at once.
    pub fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// The time that one event takes to be allowed again.
    pub(crate) fn period(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.events_per_second).max(Duration::from_nanos(1))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitSpec {
    events_per_second: f64,
    burst: Option<u32>,
}

impl TryFrom<LimitSpec> for Limit {
    type Error = ConfigError;

    fn try_from(spec: LimitSpec) -> Result<Limit, ConfigError> {
        // `as` saturates, and `new` refuses what is left.
        let burst = spec.burst.unwrap_or(spec.events_per_second.ceil() as u32);
        Limit::new(spec.events_per_second, burst)
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
        let Http { max_body, max_events, max_in_flight, max_connections, .. } = self.http;
        let invalid = |field, problem| Err(ConfigError { field, problem });
        if !(1..=u64::from(u32::MAX)).contains(&max_body.as_u64()) {
            return invalid("max_body", "must be between 1 byte and 4 GiB");
        }
        if max_in_flight.as_u64() / 2 < max_body.as_u64() {
            return invalid("max_in_flight", "must be at least twice `max_body`");
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
            ("append_timeout", self.http.append_timeout),
            ("breaker_after", self.http.breaker_after),
        ] {
            if timeout.is_zero() {
                return invalid(field, "must be longer than 0s");
            }
        }
        Ok(())
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
    fn a_burst_defaults_to_one_second_and_at_least_one_event() {
        let limit = |json| serde_json::from_str::<Limit>(json).unwrap();
        assert_eq!(limit(r#"{"events_per_second":2.5}"#).burst().get(), 3);
        assert_eq!(limit(r#"{"events_per_second":0.1}"#).burst().get(), 1);
        assert_eq!(limit(r#"{"events_per_second":0.1}"#).period(), Duration::from_secs(10));
    }

    #[test]
    fn refuses_limits_that_cannot_work_and_unknown_fields() {
        for json in [
            r#"{"events_per_second":0}"#,
            r#"{"events_per_second":-1}"#,
            r#"{"events_per_second":10,"burst":0}"#,
            r#"{"events_per_second":0.000001,"burst":4000000}"#,
            r#"{"events_per_second":10,"brust":5}"#,
        ] {
            assert!(serde_json::from_str::<Limit>(json).is_err(), "{json}");
        }
        assert!(serde_json::from_str::<Http>(r#"{"max_boddy":"1MiB"}"#).is_err());
        assert!(serde_json::from_str::<Limits>(r#"{"per_devices":null}"#).is_err());
    }

    #[test]
    fn refuses_a_budget_that_no_request_of_the_largest_size_fits_in() {
        let mut config = Config::default();
        assert_eq!(config.check(), Ok(()));
        config.http.max_in_flight = ByteSize::kib(1);
        assert_eq!(config.check().unwrap_err().field, "max_in_flight");
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
