use super::*;
use crate::answer::Why;
use crate::idempotency::key::test_key as key;
use governor::clock::FakeRelativeClock;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

fn setup(max_bytes: usize) -> (Memory, FakeRelativeClock, Clock) {
    let time = FakeRelativeClock::default();
    (Memory::new(2 * HOUR, max_bytes), time.clone(), Clock::manual(time, 0))
}

fn whole() -> Kept {
    Kept::Whole { accepted: 1, duplicates: 0 }
}

fn partial() -> Kept {
    let mut report = Report { accepted: 1, ..Report::default() };
    report.reject(1, Why::LogUnavailable, || Some("an id".into()), || "send it again".into());
    Kept::of(&Ok(report)).unwrap()
}

fn turn<'a>(found: Found<'a>) -> Turn<'a> {
    match found {
        Found::Nothing(turn) | Found::Unfinished(turn, _) => turn,
        _ => panic!("not to be run"),
    }
}

#[test]
fn one_runs_and_the_others_hear_when_it_has_ended() {
    let (memory, _, clock) = setup(1 << 20);
    let first = turn(memory.begin(key(1, 1), &clock));
    let Found::Running(running) = memory.begin(key(1, 1), &clock) else { panic!("it runs") };
    assert!(running.has_changed().is_ok());
    assert!(matches!(memory.begin(key(1, 2), &clock), Found::OtherBody));
    assert!(matches!(memory.begin(key(2, 1), &clock), Found::Nothing(_)));
    first.end(whole(), &clock);
    assert!(running.has_changed().is_err(), "closed");
    assert!(matches!(memory.begin(key(1, 1), &clock), Found::Final(_)));
    assert!(matches!(memory.begin(key(1, 2), &clock), Found::OtherBody));
}

#[test]
fn a_turn_that_comes_to_nothing_leaves_what_was_there_before() {
    let (memory, _, clock) = setup(1 << 20);
    drop(memory.begin(key(1, 1), &clock));
    assert_eq!(memory.size(&clock), (0, 0));
    turn(memory.begin(key(1, 2), &clock)).end(partial(), &clock);
    let before = memory.size(&clock);
    drop(turn(memory.begin(key(1, 2), &clock)));
    assert_eq!(memory.size(&clock), before);
    assert!(matches!(memory.begin(key(1, 2), &clock), Found::Unfinished(..)));
}

#[test]
fn an_answer_is_forgotten_after_its_window_and_not_before() {
    let (memory, time, clock) = setup(1 << 20);
    turn(memory.begin(key(1, 1), &clock)).end(whole(), &clock);
    time.advance(2 * HOUR - Duration::from_millis(1));
    assert!(memory.has_answered(&key(1, 1).place, &clock));
    time.advance(Duration::from_millis(1));
    assert!(!memory.has_answered(&key(1, 1).place, &clock));
    assert_eq!(memory.size(&clock), (0, 0));
}

#[test]
fn the_oldest_are_forgotten_when_the_bytes_are_spent() {
    let (memory, time, clock) = setup(10 * KEY_BYTES);
    for n in 0..25 {
        time.advance(Duration::from_secs(1));
        turn(memory.begin(key(n, 1), &clock)).end(whole(), &clock);
    }
    let kept: Vec<u64> = (0..25).filter(|n| memory.has_answered(&key(*n, 1).place, &clock)).collect();
    assert_eq!(kept, (15..25).collect::<Vec<_>>());
    assert_eq!(memory.size(&clock), (10, 10 * KEY_BYTES));
}

#[test]
fn what_is_taken_up_again_survives_its_own_time() {
    let (memory, time, clock) = setup(1 << 20);
    turn(memory.begin(key(1, 1), &clock)).end(partial(), &clock);
    let again = turn(memory.begin(key(1, 1), &clock));
    time.advance(3 * HOUR);
    assert!(matches!(memory.begin(key(1, 1), &clock), Found::Running(_)));
    again.end(whole(), &clock);
    assert!(memory.has_answered(&key(1, 1).place, &clock));
    time.advance(2 * HOUR);
    assert_eq!(memory.size(&clock), (0, 0));
}

proptest! {
    /// Whatever happens in whatever order: bytes are what the entries take, the bound holds but for what runs, and in the
    /// end everything goes.
    #[test]
    fn bytes_are_accounted_for_and_bounded(steps in prop::collection::vec((0u64..12, 0u8..5, 0u64..4_000), 1..200)) {
        let (memory, time, clock) = setup(6 * KEY_BYTES);
        let mut running = Vec::new();
        for (n, step, seconds) in steps {
            time.advance(Duration::from_secs(seconds));
            match step {
                0 => drop(memory.begin(key(n, 1), &clock)),
                1 if !running.is_empty() => drop(running.swap_remove(n as usize % running.len())),
                2 if !running.is_empty() => {
                    let turn: Turn<'_> = running.swap_remove(n as usize % running.len());
                    turn.end(partial(), &clock);
                }
                3 if !running.is_empty() => {
                    let turn: Turn<'_> = running.swap_remove(n as usize % running.len());
                    turn.end(whole(), &clock);
                }
                _ => match memory.begin(key(n, 1), &clock) {
                    Found::Nothing(turn) | Found::Unfinished(turn, _) => running.push(turn),
                    _ => {}
                },
            }
            let keys = memory.lock();
            let kept = |entry: &Entry| match &entry.state { State::Ended(kept) => kept.bytes(), State::Running(_) => 0 };
            let bytes: usize = keys.entries.values().map(|entry| KEY_BYTES + kept(entry)).sum();
            prop_assert_eq!(keys.bytes, bytes);
            let ended = keys.entries.values().filter(|entry| matches!(entry.state, State::Ended(_))).count();
            prop_assert_eq!(keys.entries.len() - ended, running.len());
            let queued = keys.entries.values().filter(|entry| entry.answered.is_some()).count();
            prop_assert_eq!(keys.oldest.len(), queued);
        }
        drop(running);
        prop_assert!(memory.size(&clock).1 <= 6 * KEY_BYTES + partial().bytes() * 12);
        time.advance(3 * HOUR);
        prop_assert_eq!(memory.size(&clock), (0, 0));
    }
}
