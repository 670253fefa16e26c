//! Decides whether events may come now: per key, address and dataset, for the gateway as a whole, and per device; in
//! events and in bytes.
//!
//! - All limits but the device's count a request at once and refuse it whole, before its events are parsed. Its bytes
//!   are those of the body after decompression.
//! - The device limit counts event by event, by its JSON text, for one request may carry events of many devices (see
//!   `batch`).
//! - Who is refused by one limit uses up none: each is asked before any counts. Two exceptions remain. Another request
//!   may come between asking and counting. And what was counted for a request stays counted if its events are refused
//!   one by one, by their devices' limits or as invalid.
//! - Of several limits that are hit, the answer names the one with the longest wait, after which all let pass.
//! - What is more than a burst can never pass, so it is told the largest size that can, instead of a time to wait.
//! - Datasets of lower classes leave a part of the global burst to the others (see `priority`).
//!
//! Memory is fixed at start (see `key_table`).

mod meter;
#[cfg(test)]
mod tests;

use crate::caller::Caller;
use crate::clock::Clock;
use crate::config::{self, Limit, Rate};
use crate::priority::Share;
use meter::{Ask, Meter};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU64;
use std::time::Duration;

/// The rate limits of one gateway, but for those of datasets.
pub(crate) struct Limits {
    per_device: Meters,
    per_key: Meters,
    per_ip: Meters,
    global: Meters,
}

/// The limit of one scope: both, one or no meter.
pub(crate) struct Meters {
    events: Option<Meter>,
    bytes: Option<Meter>,
}

/// Which limit it was; the name stands in answers and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Device,
    Key,
    Ip,
    Dataset,
    Global,
}

/// What it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Events,
    Bytes,
}

/// A limit by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) scope: Scope,
    pub(crate) unit: Unit,
}

impl Policy {
    pub(crate) fn as_str(self) -> &'static str {
        match (self.scope, self.unit) {
            (Scope::Device, Unit::Events) => "per_device",
            (Scope::Device, Unit::Bytes) => "per_device_bytes",
            (Scope::Key, Unit::Events) => "per_key",
            (Scope::Key, Unit::Bytes) => "per_key_bytes",
            (Scope::Ip, Unit::Events) => "per_ip",
            (Scope::Ip, Unit::Bytes) => "per_ip_bytes",
            (Scope::Dataset, Unit::Events) => "per_dataset",
            (Scope::Dataset, Unit::Bytes) => "per_dataset_bytes",
            (Scope::Global, Unit::Events) => "global",
            (Scope::Global, Unit::Bytes) => "global_bytes",
        }
    }
}

/// A limit that was hit, with all that the answer needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exceeded {
    pub(crate) policy: Policy,
    pub(crate) rate: Rate,
    /// What would still pass now.
    pub(crate) remaining: u64,
    /// After this long the same events pass, if nobody else takes the room.
    pub(crate) wait: Duration,
}

/// Why something may not pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Over {
    /// Not now.
    Wait(Exceeded),
    /// Never in this size.
    Never(TooMuch),
}

/// More than a limit ever lets through at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuch {
    pub(crate) policy: Policy,
    pub(crate) largest: NonZeroU64,
}

/// A request, as far as limits count it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) dataset: &'a Meters,
    pub(crate) share: Share,
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

impl Limits {
    pub(crate) fn new(config: &config::Limits, clock: &Clock) -> Limits {
        let meters = |scope, limit, keys| Meters::new(scope, limit, keys, clock);
        Limits {
            per_device: meters(Scope::Device, config.per_device, config.max_keys),
            per_key: meters(Scope::Key, config.per_key, config.max_keys),
            per_ip: meters(Scope::Ip, config.per_ip, config.max_keys),
            global: meters(Scope::Global, config.global, 1),
        }
    }

    /// Counts a request, or says which limit refuses it.
    pub(crate) fn request(&self, request: &Request<'_>) -> Result<(), Over> {
        let asks = self.asks(request);
        let outcome = pass(&asks);
        if let Err(Over::Wait(exceeded)) = &outcome {
            count_refused(&asks, exceeded.policy, request.events as u64);
        }
        outcome
    }

    /// Why none of a request's events may pass now, when the limits of their devices have said `over`: sent again after
    /// that wait, it is counted here once more.
    pub(crate) fn also(&self, request: &Request<'_>, over: Over) -> Over {
        match (over, longest_wait(&self.asks(request))) {
            (Over::Wait(device), Some(longer)) if longer.wait > device.wait => Over::Wait(longer),
            _ => over,
        }
    }

    /// Counts one event against the limit of its device.
    pub(crate) fn device(&self, device_id: &str, bytes: usize) -> Result<(), Over> {
        let asks = self.per_device.ask(device_id, 1, bytes);
        let outcome = pass(&asks);
        if let Err(Over::Wait(exceeded)) = &outcome {
            count_refused(&asks, exceeded.policy, 1);
        }
        outcome
    }

    /// Whether an event has more bytes than a device may ever send at once.
    pub(crate) fn device_never(&self, bytes: usize) -> Option<TooMuch> {
        too_much(&self.per_device.ask((), 1, bytes))
    }

    /// Refuses one more event of a device of which others wait: what they would all have to wait for, `events` with
    /// `bytes`, or a burst of them.
    pub(crate) fn device_again(&self, device_id: &str, events: usize, bytes: usize) -> Option<Exceeded> {
        let asks = self.per_device.ask(device_id, events, bytes);
        let exceeded = longest_wait(&asks)?;
        count_refused(&asks, exceeded.policy, 1);
        Some(exceeded)
    }

    /// When a device that has used up everything may send so much again; the longer wait, or what is too much.
    pub(crate) fn device_anew(&self, events: usize, bytes: usize) -> Option<Over> {
        let asks = self.per_device.ask((), events, bytes);
        let longest = || asks.iter().flatten().map(Ask::anew).max_by_key(|exceeded| exceeded.wait).map(Over::Wait);
        too_much(&asks).map(Over::Never).or_else(longest)
    }

    /// Publishes how full the tables are.
    pub(crate) fn measure(&self) {
        let meters = [&self.per_device, &self.per_key, &self.per_ip];
        meters.into_iter().flat_map(|meters| [&meters.events, &meters.bytes]).flatten().for_each(Meter::measure);
    }

    /// From the narrowest to the widest.
    fn asks<'a>(&'a self, request: &Request<'a>) -> [Option<Ask<'a>>; 8] {
        let Request { caller, dataset, share, events, bytes } = *request;
        let [key, key_bytes] = match &caller.name {
            Some(name) => self.per_key.ask(&**name, events, bytes),
            None => [None, None],
        };
        let [ip, ip_bytes] = self.per_ip.ask(network(caller.ip), events, bytes);
        let [set, set_bytes] = dataset.ask((), events, bytes);
        let for_others = |burst| burst - share.of(burst);
        let [all, all_bytes] = self.global.ask((), events, bytes).map(|ask| Some(ask?.leaving(for_others)));
        [key, ip, set, all, key_bytes, ip_bytes, set_bytes, all_bytes]
    }
}

impl Meters {
    /// The limit of one dataset.
    pub(crate) fn of_dataset(limit: Option<Limit>, clock: &Clock) -> Meters {
        Meters::new(Scope::Dataset, limit, 1, clock)
    }

    fn new(scope: Scope, limit: Option<Limit>, keys: u32, clock: &Clock) -> Meters {
        let meter = |unit, rate: Option<Rate>| Some(Meter::new(Policy { scope, unit }, rate?, keys, clock));
        Meters {
            events: meter(Unit::Events, limit.and_then(|limit| limit.events)),
            bytes: meter(Unit::Bytes, limit.and_then(|limit| limit.bytes)),
        }
    }

    fn ask(&self, key: impl Hash, events: usize, bytes: usize) -> [Option<Ask<'_>>; 2] {
        [
            self.events.as_ref().map(|meter| meter.ask(&key, events as u64)),
            self.bytes.as_ref().map(|meter| meter.ask(&key, bytes as u64)),
        ]
    }
}

/// Counts them all, or none.
fn pass(asks: &[Option<Ask<'_>>]) -> Result<(), Over> {
    // All sizes first: what can never pass must not be told to wait.
    if let Some(too_much) = too_much(asks) {
        return Err(Over::Never(too_much));
    }
    // Several are asked before any counts; a single one says the same by counting.
    let mut there = asks.iter().flatten();
    let single = there.next().is_some_and(|ask| !ask.leaves_any()) && there.next().is_none();
    if !single && let Some(exceeded) = longest_wait(asks) {
        return Err(Over::Wait(exceeded));
    }
    asks.iter().flatten().try_for_each(Ask::pass).map_err(Over::Wait)
}

/// What is too much, with the largest size that all limits of its unit let through.
fn too_much(asks: &[Option<Ask<'_>>]) -> Option<TooMuch> {
    let mut found = asks.iter().flatten().filter_map(Ask::too_much);
    let first = found.next()?;
    let alike = found.filter(|other| other.policy.unit == first.policy.unit);
    Some(alike.fold(first, |least, other| if other.largest < least.largest { other } else { least }))
}

fn longest_wait(asks: &[Option<Ask<'_>>]) -> Option<Exceeded> {
    asks.iter().flatten().filter_map(|ask| ask.would_pass().err()).max_by_key(|exceeded| exceeded.wait)
}

fn count_refused(asks: &[Option<Ask<'_>>], policy: Policy, events: u64) {
    asks.iter().flatten().filter(|ask| ask.policy() == policy).for_each(|ask| ask.refused(events));
}

/// Who counts as one address. A host commonly has a whole IPv6 /64 to itself, so single addresses say nothing.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !(u128::MAX >> 64))),
        v4 => v4,
    }
}
