//! Why a caller was not let in: what the operator is told, and the caller is not.

use crate::clock::Clock;
use crate::metrics;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::warn;

/// Why credentials are not good; the name stands in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// None were sent.
    Missing,
    /// More than one, or bytes that are no text.
    Unreadable,
    UnknownKey,
    WrongSecret,
    Expired,
    Revoked,
    /// The token names no key of the JWKS.
    UnknownSigner,
    /// No token, or one that its key has not signed.
    BadToken,
    NotYetValid,
    WrongIssuer,
    WrongAudience,
    /// The token names no device.
    NoDevice,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Unreadable => "unreadable",
            Reason::UnknownKey => "unknown_key",
            Reason::WrongSecret => "wrong_secret",
            Reason::Expired => "expired",
            Reason::Revoked => "revoked",
            Reason::UnknownSigner => "unknown_signer",
            Reason::BadToken => "bad_token",
            Reason::NotYetValid => "not_yet_valid",
            Reason::WrongIssuer => "wrong_issuer",
            Reason::WrongAudience => "wrong_audience",
            Reason::NoDevice => "no_device",
        }
    }

    /// Whether it may have been a guess. Who sends nothing guesses nothing; and whose key has expired has had it.
    pub(crate) fn may_be_a_guess(self) -> bool {
        use Reason::*;
        matches!(self, Unreadable | UnknownKey | WrongSecret | UnknownSigner | BadToken)
    }
}

/// Lines at once, and then one a second: strangers must not fill the disk.
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Tells the operator of failures.
pub(crate) struct FailureLog {
    limiter: RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>,
    unsaid: AtomicU64,
}

impl FailureLog {
    pub(crate) fn new(clock: &Clock) -> FailureLog {
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(BURST);
        FailureLog { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), unsaid: AtomicU64::new(0) }
    }

    /// `key` is the name and id of a key or the subject of a token that is known; never anything else that was sent.
    pub(crate) fn tell(&self, ip: IpAddr, reason: Reason, key: Option<(&str, &str)>) {
        metrics::authentication_failed(reason.as_str());
        if self.limiter.check().is_err() {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
        let (key, id) = key.unzip();
        warn!(%ip, reason = reason.as_str(), key, id, unsaid, "authentication failed");
    }
}
