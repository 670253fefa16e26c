//! Slows who guesses keys, by address, before what is presented is looked at.
//!
//! An address may be wrong [`BURST`] times at once, and then once a second: so much is looked at, and the rest is told to
//! come back. Devices behind the same address must not be locked out by it, so what was good from an address is looked at
//! for [`TRUST`] whatever else comes from there. Only who has it can use that: another key is a guess like before.
//!
//! Memory is fixed at start (see `key_table` and `trusted`).

use super::trusted::Trusted;
use crate::clock::Clock;
use crate::key_table::{KeyTable, Place};
use crate::limits::network;
use governor::clock::Clock as _;
use governor::nanos::Nanos;
use governor::state::StateStore;
use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

/// Wrong guesses that an address may make at once.
pub(crate) const BURST: u32 = 10;
/// The time after which it may make one more.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);
/// How long credentials that were good are remembered with their address.
pub(crate) const TRUST: Duration = Duration::from_secs(24 * 3600);

/// Addresses that are told apart without error: 1 MiB.
const ADDRESSES: u32 = 1 << 16;
/// Credentials that are remembered with their address: 4 MiB.
const CREDENTIALS: usize = 1 << 19;

pub(crate) struct Guessers {
    /// Until when the guesses of an address are paid for.
    wrong: KeyTable,
    good: Trusted,
    clock: Clock,
}

impl Guessers {
    pub(crate) fn new(clock: &Clock) -> Guessers {
        Guessers { wrong: KeyTable::new(ADDRESSES), good: Trusted::new(CREDENTIALS), clock: clock.clone() }
    }

    /// How long this address must wait before what it presents is looked at.
    pub(crate) fn check(&self, ip: IpAddr, presented: &str) -> Result<(), Duration> {
        let now = self.clock.now().as_u64();
        let debt = until(&self.wrong, self.wrong.place(network(ip))).saturating_sub(now);
        let wait = debt.saturating_sub(nanos(PERIOD * (BURST - 1)));
        if wait == 0 || self.good.knows((network(ip), presented), second(now)) {
            return Ok(());
        }
        Err(Duration::from_nanos(wait))
    }

    /// What was presented may have been a guess.
    pub(crate) fn wrong(&self, ip: IpAddr) {
        let now = self.clock.now().as_u64();
        let most = now + nanos(PERIOD * BURST);
        // At most the whole burst: requests that were looked at side by side do not add up to a long wait.
        raise(&self.wrong, self.wrong.place(network(ip)), |paid| (paid.max(now) + nanos(PERIOD)).min(most));
    }

    /// What was presented is good.
    pub(crate) fn good(&self, ip: IpAddr, presented: &str) {
        let until = self.clock.now().as_u64() + nanos(TRUST);
        self.good.trust((network(ip), presented), second(until));
    }
}

fn until(table: &KeyTable, place: Place) -> u64 {
    // Refusing leaves the cells as they are.
    let state =
        table.measure_and_replace(&place, |state| Err::<((), Nanos), _>(state.map_or(0, |state| state.as_u64())));
    state.err().unwrap_or(0)
}

fn raise(table: &KeyTable, place: Place, next: impl Fn(u64) -> u64) {
    let raised = table.measure_and_replace(&place, |state| {
        Ok::<_, Infallible>(((), Nanos::new(next(state.map_or(0, |state| state.as_u64())))))
    });
    let Ok(()) = raised;
}

/// Seconds since the clock was started, of which 136 years fit.
fn second(nanos: u64) -> u32 {
    (nanos / 1_000_000_000) as u32
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn guessers() -> (Guessers, FakeRelativeClock) {
        let time = FakeRelativeClock::default();
        (Guessers::new(&Clock::manual(time.clone(), 0)), time)
    }

    const GUESSER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 8));

    #[test]
    fn an_address_may_be_wrong_ten_times_and_then_once_a_second() {
        let (guessers, time) = guessers();
        for _ in 0..BURST {
            assert_eq!(guessers.check(GUESSER, "x"), Ok(()));
            guessers.wrong(GUESSER);
        }
        assert_eq!(guessers.check(GUESSER, "x"), Err(PERIOD));
        assert_eq!(guessers.check(OTHER, "x"), Ok(()), "others are not disturbed");
        time.advance(PERIOD);
        assert_eq!(guessers.check(GUESSER, "x"), Ok(()));
        guessers.wrong(GUESSER);
        assert_eq!(guessers.check(GUESSER, "x"), Err(PERIOD));
        time.advance(PERIOD * (BURST + 1));
        assert_eq!(guessers.check(GUESSER, "x"), Ok(()));
    }

    #[test]
    fn guesses_side_by_side_cost_no_more_than_a_second() {
        let (guessers, _) = guessers();
        for _ in 0..1_000 {
            guessers.wrong(GUESSER);
        }
        assert_eq!(guessers.check(GUESSER, "x"), Err(PERIOD));
    }

    #[test]
    fn what_was_good_from_an_address_is_not_locked_out_with_it() {
        let (guessers, time) = guessers();
        guessers.good(GUESSER, "device's");
        (0..BURST).for_each(|_| guessers.wrong(GUESSER));
        assert_eq!(guessers.check(GUESSER, "device's"), Ok(()));
        assert_eq!(guessers.check(GUESSER, "guessed"), Err(PERIOD));
        time.advance(TRUST + PERIOD);
        (0..BURST).for_each(|_| guessers.wrong(GUESSER));
        assert_eq!(guessers.check(GUESSER, "device's"), Err(PERIOD), "not for ever");
    }
}
