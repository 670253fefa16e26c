//! Draws what happens when, from a seed alone: the same seed is the same schedule, whatever came of the last one.

use super::store_proxy::{Disturbance, Fault, Operation};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// One thing that happens. A number chooses among the processors that there are then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// kill -9; another is started in its place.
    KillProcessor(usize),
    /// SIGTERM; another is started in its place, at once.
    ReplaceProcessor(usize),
    /// SIGSTOP for longer than the group waits: it wakes up when its partitions have moved.
    FreezeProcessor(usize, Duration),
    AddProcessor,
    /// SIGTERM.
    RemoveProcessor(usize),
    KillGateway,
    KillCompactor,
    /// SIGSTOP: connections stay open and nobody answers.
    FreezeBroker(Duration),
    /// kill -9, and the same broker again.
    KillBroker,
    MorePartitions,
    Disturb(Disturbance),
    /// The store refuses everything with 403 for so long.
    Deny(Duration),
}

/// An action and its time after the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub at: Duration,
    pub action: Action,
}

/// Below this length, times are short as well: as many faults as there is room for, rather than long ones.
const LONG: Duration = Duration::from_secs(300);

/// Draws a schedule of `length`. Every kind of action comes once before any comes again.
pub fn draw(seed: u64, length: Duration) -> Vec<Step> {
    let mut chance = StdRng::seed_from_u64(seed);
    let is_long = length >= LONG;
    let (mut steps, mut deck, mut at) = (Vec::new(), Vec::new(), Duration::from_secs(3));
    while at < length {
        if deck.is_empty() {
            deck = round(&mut chance, is_long);
            deck.shuffle(&mut chance);
        }
        steps.extend(deck.pop().map(|action| Step { at, action }));
        at += Duration::from_millis(chance.random_range(if is_long { 2_000..15_000 } else { 1_000..3_000 }));
    }
    steps
}

/// Every kind of action once, faults of the store more often.
fn round(chance: &mut StdRng, is_long: bool) -> Vec<Action> {
    let mut seconds = |short: Range<u64>, long: Range<u64>| {
        Duration::from_secs(chance.random_range(if is_long { long } else { short }))
    };
    let frozen = seconds(7..10, 7..40);
    let mut actions = vec![
        Action::FreezeBroker(seconds(2..6, 2..40)),
        Action::Deny(seconds(1..3, 1..10)),
        Action::AddProcessor,
        Action::KillGateway,
        Action::KillCompactor,
        Action::KillBroker,
        Action::MorePartitions,
    ];
    actions.push(Action::KillProcessor(chance.random_range(0..10)));
    actions.push(Action::ReplaceProcessor(chance.random_range(0..10)));
    actions.push(Action::FreezeProcessor(chance.random_range(0..10), frozen));
    actions.push(Action::RemoveProcessor(chance.random_range(0..10)));
    actions.extend((0..6).map(|_| Action::Disturb(disturbance(chance, is_long))));
    actions
}

fn disturbance(chance: &mut StdRng, is_long: bool) -> Disturbance {
    // Longer than the client waits for an answer (30 s), or long enough to come in another order.
    let stall = Duration::from_secs(if is_long { 60 } else { 4 });
    let of_reads = [Fault::Refuse(500), Fault::Refuse(503), Fault::CarryOutThenCut, Fault::Stall(stall)];
    let of_writes = [
        Fault::CarryOutThenAnswer(500),
        Fault::CarryOutThenAnswer(503),
        Fault::CarryOutThenAnswer(412),
        Fault::CarryOutThenStall(stall),
        Fault::Stall(Duration::from_millis(700)),
    ];
    // Most of what matters is written.
    let kinds =
        [Operation::PutFile, Operation::PutLog, Operation::PutFile, Operation::PutLog, Operation::Get, Operation::List];
    let operation = kinds.choose(chance).copied().unwrap_or(Operation::PutLog);
    let is_write = matches!(operation, Operation::PutFile | Operation::PutLog);
    let faults: Vec<Fault> = of_reads.into_iter().chain(of_writes.into_iter().filter(|_| is_write)).collect();
    Disturbance {
        operation,
        fault: faults.choose(chance).copied().unwrap_or(Fault::CarryOutThenCut),
        share: chance.random_range(0.2..0.9),
        lasts: Duration::from_secs(chance.random_range(if is_long { 5..60 } else { 2..6 })),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.1} s  {:?}", self.at.as_secs_f64(), self.action)
    }
}

#[test]
fn the_same_seed_is_the_same_schedule_and_another_seed_another() {
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    assert_eq!(draw(7, minute), draw(7, minute));
    assert_ne!(draw(7, minute), draw(8, minute));
    let steps = draw(7, hour);
    assert!(steps.is_sorted_by_key(|step| step.at) && steps.iter().all(|step| step.at < hour));
    // Whatever the seed, an hour has every kind.
    for kind in ["KillProcessor", "FreezeProcessor", "MorePartitions", "KillBroker", "Deny", "412", "60s"] {
        assert!(steps.iter().any(|step| step.to_string().contains(kind)), "{kind}");
    }
}
