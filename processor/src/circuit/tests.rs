use super::*;
use proptest::prelude::*;

const POLICY: Policy = Policy {
    failures: 3,
    failing_for: Duration::from_secs(10),
    first_wait: Duration::from_secs(1),
    longest_wait: Duration::from_secs(5),
};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Lets a call through and has it fail, at the longest jitter.
fn fail(circuit: &mut Circuit, now: Instant) {
    let pass = circuit.admit(now).unwrap();
    circuit.failed(pass, now, 1.0);
}

#[test]
fn opens_after_failures_in_a_row_and_not_after_as_many_with_a_success_between() {
    let (mut circuit, now) = (Circuit::new(POLICY), Instant::now());
    fail(&mut circuit, now);
    fail(&mut circuit, now);
    let pass = circuit.admit(now).unwrap();
    circuit.succeeded(pass);
    fail(&mut circuit, now);
    fail(&mut circuit, now);
    assert_eq!((circuit.state(), circuit.failures()), (State::Closed, 2));
    fail(&mut circuit, now);
    assert_eq!((circuit.state(), circuit.failures()), (State::Open, 3));
    assert_eq!(circuit.admit(now).unwrap_err(), Refusal::Until(now + seconds(1.0)));
}

#[test]
fn calls_that_are_slow_to_fail_open_it_by_time() {
    let (mut circuit, now) = (Circuit::new(POLICY), Instant::now());
    fail(&mut circuit, now);
    fail(&mut circuit, now + seconds(10.0));
    assert_eq!(circuit.state(), State::Open);
}

#[test]
fn one_call_finds_out_while_the_others_wait() {
    let (mut circuit, now) = (Circuit::new(POLICY), Instant::now());
    (0..3).for_each(|_| fail(&mut circuit, now));
    let later = now + seconds(1.0);
    let probe = circuit.admit(later).unwrap();
    assert_eq!(circuit.state(), State::HalfOpen);
    assert_eq!(circuit.admit(later).unwrap_err(), Refusal::ProbeUnderWay);
    circuit.succeeded(probe);
    assert_eq!((circuit.state(), circuit.failures()), (State::Closed, 0));
    let (one, other) = (circuit.admit(later).unwrap(), circuit.admit(later).unwrap());
    circuit.succeeded(one);
    circuit.succeeded(other);
}

#[test]
fn waits_double_up_to_a_cap_and_start_over_after_a_success() {
    let (mut circuit, mut now) = (Circuit::new(POLICY), Instant::now());
    (0..3).for_each(|_| fail(&mut circuit, now));
    for wait in [1.0, 2.0, 4.0, 5.0, 5.0] {
        assert_eq!(circuit.opens_until(), Some(now + seconds(wait)));
        now += seconds(wait);
        fail(&mut circuit, now);
    }
    now += seconds(5.0);
    let probe = circuit.admit(now).unwrap();
    circuit.succeeded(probe);
    (0..3).for_each(|_| fail(&mut circuit, now));
    assert_eq!(circuit.opens_until(), Some(now + seconds(1.0)));
}

#[test]
fn a_call_from_before_the_opening_says_nothing_about_now() {
    let (mut circuit, now) = (Circuit::new(POLICY), Instant::now());
    let (slow, slower) = (circuit.admit(now).unwrap(), circuit.admit(now).unwrap());
    (0..3).for_each(|_| fail(&mut circuit, now));
    circuit.succeeded(slow);
    assert_eq!(circuit.state(), State::Open);
    let probe = circuit.admit(now + seconds(1.0)).unwrap();
    circuit.failed(slower, now + seconds(1.0), 1.0);
    assert_eq!(circuit.state(), State::HalfOpen);
    circuit.succeeded(probe);
    assert_eq!(circuit.state(), State::Closed);
}

#[test]
fn a_probe_that_ends_without_an_outcome_leaves_the_finding_out_to_the_next() {
    let (mut circuit, now) = (Circuit::new(POLICY), Instant::now());
    (0..3).for_each(|_| fail(&mut circuit, now));
    let later = now + seconds(1.0);
    let probe = circuit.admit(later).unwrap();
    circuit.gave_up(probe, later);
    assert_eq!(circuit.state(), State::Open);
    let probe = circuit.admit(later).unwrap();
    circuit.succeeded(probe);
    assert_eq!(circuit.state(), State::Closed);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Pass(u64),
    Begin,
    Succeed(usize),
    Fail(usize, f64),
    GiveUp(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (1..4_000u64).prop_map(Step::Pass),
        4 => Just(Step::Begin),
        1 => (0..8usize).prop_map(Step::Succeed),
        3 => (0..8usize, 0.0..=1.0).prop_map(|(call, jitter)| Step::Fail(call, jitter)),
        1 => (0..8usize).prop_map(Step::GiveUp),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever calls do, in whatever order they end: while it is not closed at most one is let through at a time, none
    /// before the wait is over, no wait is longer than the cap, and it can always be closed again.
    #[test]
    fn lets_one_call_through_at_a_time_while_it_is_not_closed(steps in steps()) {
        let (mut circuit, mut now) = (Circuit::new(POLICY), Instant::now());
        // Calls under way, and whether each was let through by a circuit that was not closed.
        let mut calls: Vec<(Pass, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Begin => {
                    let (before, until) = (circuit.state(), circuit.opens_until());
                    match circuit.admit(now) {
                        Ok(pass) => {
                            prop_assert!(until.is_none_or(|until| now >= until));
                            prop_assert!(before != State::HalfOpen);
                            calls.push((pass, before == State::Open));
                        }
                        Err(Refusal::Until(until)) => prop_assert!(now < until && before == State::Open),
                        Err(Refusal::ProbeUnderWay) => prop_assert_eq!(before, State::HalfOpen),
                    }
                }
                Step::Succeed(call) if call < calls.len() => {
                    let (before, (pass, probe)) = (circuit.state(), calls.remove(call));
                    circuit.succeeded(pass);
                    if !probe {
                        prop_assert_eq!(circuit.state(), before);
                    }
                }
                Step::Fail(call, jitter) if call < calls.len() => {
                    let (before, (pass, probe)) = (circuit.state(), calls.remove(call));
                    circuit.failed(pass, now, jitter);
                    if !probe && before != State::Closed {
                        prop_assert_eq!(circuit.state(), before);
                    }
                }
                Step::GiveUp(call) if call < calls.len() => circuit.gave_up(calls.remove(call).0, now),
                _ => {}
            }
            let probes = calls.iter().filter(|(pass, _)| circuit.state() == State::HalfOpen && pass.phase == circuit.number);
            prop_assert_eq!(probes.count(), usize::from(circuit.state() == State::HalfOpen));
            if let Some(until) = circuit.opens_until() {
                prop_assert!(until <= now + POLICY.longest_wait);
            }
        }
        for (pass, _) in calls {
            circuit.gave_up(pass, now);
        }
        let pass = circuit.admit(now + POLICY.longest_wait);
        prop_assert!(pass.is_ok());
        circuit.succeeded(pass.unwrap());
        prop_assert_eq!(circuit.state(), State::Closed);
    }
}
