use super::*;
use crate::priority::Classes;
use bytesize::ByteSize;
use governor::clock::FakeRelativeClock;
use lake::dataset::{Dataset, DatasetSpec, Priority};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Limits, a dataset, and a time that passes when told.
struct Gateway {
    limits: Limits,
    classes: Classes,
    dataset: Meters,
    time: FakeRelativeClock,
}

impl Gateway {
    fn new(config: &config::Limits, classes: &[Priority]) -> Gateway {
        let dataset = |priority: &Priority| {
            Dataset::new("x", DatasetSpec { priority: *priority, ..DatasetSpec::default() }).unwrap()
        };
        let classes = Classes::of(&classes.iter().map(dataset).collect::<Vec<_>>());
        let time = FakeRelativeClock::default();
        let clock = Clock::manual(time.clone(), 0);
        let limits = Limits::new(config, &clock);
        Gateway { limits, classes, dataset: Meters::of_dataset(config.of_dataset("x"), &clock), time }
    }

    fn of(config: &config::Limits) -> Gateway {
        Gateway::new(config, &[Priority::Normal])
    }

    fn post(&self, who: u32, class: Priority, events: usize, bytes: usize) -> Result<(), Over> {
        let caller = Caller { name: Some(Arc::from(who.to_string())), ..Caller::anybody(Ipv4Addr::from(who).into()) };
        self.limits.request(&Request {
            caller: &caller,
            dataset: &self.dataset,
            share: self.classes.share(class),
            events,
            bytes,
        })
    }

    fn send(&self, who: u32, events: usize, bytes: usize) -> Result<(), Over> {
        self.post(who, Priority::Normal, events, bytes)
    }
}

fn events(per_second: f64, burst: u32) -> Option<Limit> {
    Some(Limit::new(per_second, burst).unwrap())
}

fn bytes(per_second: u64, burst: u64) -> Option<Limit> {
    Some(Limit::of_bytes(ByteSize(per_second), ByteSize(burst)).unwrap())
}

fn waits(outcome: Result<(), Over>) -> Exceeded {
    match outcome {
        Err(Over::Wait(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    }
}

/// A way to set one of the limits.
type Set = fn(&mut config::Limits, Option<Limit>);

const EACH: [(Set, &str); 4] = [
    (|limits, limit| limits.per_key = limit, "per_key"),
    (|limits, limit| limits.per_ip = limit, "per_ip"),
    (|limits, limit| limits.per_dataset = limit, "per_dataset"),
    (|limits, limit| limits.global = limit, "global"),
];

#[test]
fn each_limit_stands_alone_in_events_and_in_bytes() {
    for (set, name) in EACH {
        let mut config = config::Limits::default();
        set(&mut config, events(1.0, 10));
        let gateway = Gateway::of(&config);
        assert_eq!(gateway.send(1, 10, 1 << 40), Ok(()));
        assert_eq!(waits(gateway.send(1, 1, 1)).policy.as_str(), name);

        set(&mut config, bytes(1, 10));
        let gateway = Gateway::of(&config);
        assert_eq!(gateway.send(1, 1 << 40, 10), Ok(()));
        assert_eq!(waits(gateway.send(1, 1, 1)).policy.as_str(), format!("{name}_bytes"));
    }
}

#[test]
fn keys_and_addresses_are_told_apart_and_who_has_no_key_has_no_limit_of_keys() {
    let config = config::Limits { per_key: events(1.0, 1), ..config::Limits::default() };
    let gateway = Gateway::of(&config);
    assert_eq!((gateway.send(1, 1, 1), gateway.send(2, 1, 1)), (Ok(()), Ok(())));
    waits(gateway.send(1, 1, 1));
    let nobody = Caller::anybody(Ipv4Addr::LOCALHOST.into());
    let request = Request {
        caller: &nobody,
        dataset: &gateway.dataset,
        share: gateway.classes.share(Priority::Normal),
        events: 99,
        bytes: 1,
    };
    assert_eq!(gateway.limits.request(&request), Ok(()));
}

#[test]
fn who_is_refused_by_one_limit_uses_up_no_other() {
    for (refuses, name) in EACH {
        let mut config = config::Limits::default();
        EACH.iter().for_each(|(set, _)| set(&mut config, events(0.001, 10)));
        refuses(&mut config, events(0.001, 2));
        let gateway = Gateway::of(&config);
        assert_eq!(gateway.send(1, 2, 0), Ok(()));
        for _ in 0..100 {
            assert_eq!(waits(gateway.send(1, 2, 0)).policy.as_str(), name);
        }
        // Eight are left of each of the others.
        let caller = Caller { name: Some("1".into()), ..Caller::anybody(Ipv4Addr::from(1).into()) };
        let share = gateway.classes.share(Priority::Normal);
        let left = Request { caller: &caller, dataset: &gateway.dataset, share, events: 8, bytes: 0 };
        let left = gateway.limits.asks(&left);
        let full: Vec<&str> =
            left.iter().flatten().filter(|ask| ask.would_pass().is_err()).map(|ask| ask.policy().as_str()).collect();
        assert_eq!(full, [name]);
    }
}

#[test]
fn the_answer_is_of_the_limit_with_the_longest_wait() {
    let config = config::Limits { per_ip: events(1.0, 10), global: bytes(1, 100), ..config::Limits::default() };
    let gateway = Gateway::of(&config);
    assert_eq!(gateway.send(1, 10, 100), Ok(()));
    let exceeded = waits(gateway.send(1, 5, 50));
    assert_eq!((exceeded.policy.as_str(), exceeded.wait), ("global_bytes", Duration::from_secs(50)));
    gateway.time.advance(exceeded.wait);
    assert_eq!(gateway.send(1, 5, 50), Ok(()));
}

#[test]
fn what_can_never_pass_is_told_the_size_that_passes_all_limits_and_uses_up_nothing() {
    let both = |burst, bytes| Some(events(0.001, burst).unwrap().and_bytes(ByteSize(1), ByteSize(bytes)).unwrap());
    let config = config::Limits { per_key: both(10, 500), global: both(8, 900), ..config::Limits::default() };
    let gateway = Gateway::of(&config);
    let largest = |outcome| match outcome {
        Err(Over::Never(TooMuch { policy, largest })) => (policy.as_str(), largest.get()),
        other => panic!("{other:?}"),
    };
    assert_eq!(largest(gateway.send(1, 11, 2_000)), ("global", 8));
    assert_eq!(largest(gateway.send(1, 8, 2_000)), ("per_key_bytes", 500));
    assert_eq!(gateway.send(1, 8, 500), Ok(()));
    assert_eq!(largest(gateway.send(1, 8, 501)), ("per_key_bytes", 500));
}

#[test]
fn lower_classes_leave_room_in_the_global_limit_and_an_idle_gateway_takes_any() {
    use Priority::{High, Low, Normal};
    let config = config::Limits { global: events(1.0, 100), ..config::Limits::default() };
    let gateway = Gateway::new(&config, &[Low, Normal, High]);
    assert_eq!(gateway.post(1, Low, 100, 0), Ok(()), "nobody else is there");
    gateway.time.advance(Duration::from_secs(100));
    assert_eq!(gateway.post(1, Low, 50, 0), Ok(()));
    assert_eq!(waits(gateway.post(1, Low, 1, 0)).wait, Duration::from_secs(1));
    assert_eq!(gateway.post(1, Normal, 30, 0), Ok(()));
    assert_eq!(waits(gateway.post(1, Normal, 1, 0)).remaining, 0);
    assert_eq!(gateway.post(1, High, 20, 0), Ok(()));
    assert_eq!(waits(gateway.post(1, High, 1, 0)).wait, Duration::from_secs(1));
    assert_eq!(waits(gateway.post(1, Low, 1, 0)).wait, Duration::from_secs(51));
}

#[test]
fn one_class_has_all_of_the_global_limit() {
    let config = config::Limits { global: events(1.0, 100), ..config::Limits::default() };
    for class in [Priority::Low, Priority::Normal, Priority::High] {
        let gateway = Gateway::new(&config, &[class]);
        assert_eq!((gateway.post(1, class, 60, 0), gateway.post(1, class, 40, 0)), (Ok(()), Ok(())));
    }
}

#[test]
fn a_device_is_measured_in_events_and_bytes_and_refused_by_one_uses_up_none() {
    let limit = events(1.0, 3).unwrap().and_bytes(ByteSize(10), ByteSize(100)).unwrap();
    let gateway = Gateway::of(&config::Limits { per_device: Some(limit), ..config::Limits::default() });
    assert_eq!(gateway.limits.device("a", 60), Ok(()));
    for _ in 0..10 {
        let exceeded = waits(gateway.limits.device("a", 50));
        assert_eq!((exceeded.policy.as_str(), exceeded.wait), ("per_device_bytes", Duration::from_secs(1)));
        assert_eq!(exceeded.remaining, 40);
    }
    assert_eq!((gateway.limits.device("a", 20), gateway.limits.device("a", 20)), (Ok(()), Ok(())));
    assert!(matches!(gateway.limits.device("b", 101), Err(Over::Never(never)) if never.largest.get() == 100));
    assert_eq!(
        gateway.limits.device_never(101),
        gateway.limits.device("b", 101).err().map(|over| match over {
            Over::Never(too_much) => too_much,
            Over::Wait(exceeded) => panic!("{exceeded:?}"),
        })
    );
    assert_eq!(gateway.limits.device_never(100), None);
}

#[test]
fn rates_of_terabytes_and_of_single_bytes_are_kept() {
    let tib = 1u64 << 40;
    for (rate, burst) in [(1, 1), (1, 1_000), (tib, tib), (tib, 5), (1 << 30, u64::from(u32::MAX) + 1)] {
        let gateway = Gateway::of(&config::Limits { global: bytes(rate, burst), ..config::Limits::default() });
        assert_eq!(gateway.send(1, 1, burst as usize), Ok(()), "{rate} {burst}");
        let exceeded = waits(gateway.send(1, 1, burst as usize));
        let expected = burst as f64 / rate as f64;
        let wait = exceeded.wait.as_secs_f64();
        assert!(wait < expected * 1.04 + 1e-7 && wait > expected * 0.96 - 1e-7, "{rate} {burst}: {wait}");
        gateway.time.advance(exceeded.wait);
        assert_eq!(gateway.send(1, 1, burst as usize), Ok(()), "{rate} {burst}");
    }
}

fn limit() -> impl Strategy<Value = Option<Limit>> {
    let of_events = (0.5f64..2_000.0, 1u32..500);
    let of_bytes = (1u64..1 << 36, 1u64..200_000);
    let both = (prop::option::of(of_events), prop::option::of(of_bytes));
    both.prop_map(|(of_events, of_bytes)| {
        let of_events = of_events.map(|(rate, burst)| Limit::new(rate, burst).unwrap());
        let of_bytes = of_bytes.map(|(rate, burst)| (ByteSize(rate), ByteSize(burst)));
        match (of_events, of_bytes) {
            (None, None) => None,
            (limit, None) => limit,
            (None, Some((rate, burst))) => Some(Limit::of_bytes(rate, burst).unwrap()),
            (Some(limit), Some((rate, burst))) => Some(limit.and_bytes(rate, burst).unwrap()),
        }
    })
}

fn class() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)]
}

proptest! {
    /// The wait is true to the nanosecond; answers round it up to whole seconds.
    #[test]
    fn after_the_wait_the_same_request_passes_and_never_is_for_ever(
        (per_key, per_ip, per_dataset, global) in (limit(), limit(), limit(), limit()),
        requests in prop::collection::vec((0u32..2, class(), 1usize..600, 0usize..300_000, 0u64..2_000), 1..40),
    ) {
        let config = config::Limits { per_key, per_ip, per_dataset, global, ..config::Limits::default() };
        let gateway = Gateway::new(&config, &[Priority::Low, Priority::Normal, Priority::High]);
        for (who, class, events, bytes, pause) in requests {
            gateway.time.advance(Duration::from_millis(pause));
            match gateway.post(who, class, events, bytes) {
                Ok(()) => {}
                Err(Over::Wait(exceeded)) => {
                    prop_assert!(!exceeded.wait.is_zero());
                    gateway.time.advance(exceeded.wait - Duration::from_nanos(1));
                    prop_assert!(gateway.post(who, class, events, bytes).is_err(), "the wait is too long");
                    gateway.time.advance(Duration::from_nanos(1));
                    prop_assert_eq!(gateway.post(who, class, events, bytes), Ok(()));
                }
                Err(Over::Never(TooMuch { policy, largest })) => {
                    gateway.time.advance(Duration::from_secs(365 * 24 * 3600));
                    prop_assert!(gateway.post(who, class, events, bytes).is_err());
                    let (events, bytes) = match policy.unit {
                        Unit::Events => (events.min(largest.get() as usize), 0),
                        Unit::Bytes => (1, bytes.min(largest.get() as usize)),
                    };
                    prop_assert_eq!(gateway.post(who, class, events, bytes), Ok(()));
                }
            }
        }
    }

    #[test]
    fn no_more_passes_than_rate_and_burst_allow(
        (rate, burst) in (1u64..1 << 32, 1u64..1 << 24),
        requests in prop::collection::vec((1usize..1 << 24, 0u64..5_000), 1..60),
    ) {
        let gateway = Gateway::of(&config::Limits { global: bytes(rate, burst), ..config::Limits::default() });
        let (mut passed, mut micros) = (0u64, 0u64);
        for (bytes, pause) in requests {
            gateway.time.advance(Duration::from_micros(pause));
            micros += pause;
            if gateway.send(1, 1, bytes).is_ok() {
                passed += bytes as u64;
            }
            let allowed = burst as f64 + 1.033 * (micros as f64 / 1e6) * rate as f64;
            // The last cell of a burst may be begun and not full.
            prop_assert!(passed as f64 <= allowed + 1.0 + rate as f64 * 16e-9, "{} of {}", passed, allowed);
        }
    }
}

/// Ten million strangers, each with a key, an address and a device of its own; fewer in a debug build.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_ten_million_keys_addresses_and_devices() {
    const STRANGERS: u32 = if cfg!(debug_assertions) { 500_000 } else { 10_000_000 };
    /// In each of six tables a map would hold at least the hash and the state of each: 96 bytes in all. Other tests of this
    /// process take some memory, too.
    const MOST: usize = STRANGERS as usize * 64;

    let limit = events(10.0, 10).unwrap().and_bytes(ByteSize(1_000), ByteSize(1_000)).ok();
    let gateway = Gateway::of(&config::Limits {
        per_device: limit,
        per_key: limit,
        per_ip: limit,
        max_keys: 10_000,
        ..config::Limits::default()
    });
    let come = |strangers: std::ops::Range<u32>| {
        for stranger in strangers {
            gateway.time.advance(Duration::from_micros(10));
            assert_eq!(gateway.send(stranger, 1, 100), Ok(()), "who comes once is below every limit");
            assert_eq!(gateway.limits.device(&stranger.to_string(), 100), Ok(()));
        }
    };
    let grown_by = |strangers| {
        let before = resident_bytes();
        come(strangers);
        resident_bytes().saturating_sub(before)
    };
    come(0..10_000);
    // A map would grow both times, as twice as many come; what others take comes and goes.
    let first = grown_by(10_000..STRANGERS);
    assert!(first < MOST || grown_by(STRANGERS..2 * STRANGERS) < MOST, "{first} bytes more, and again");
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}
