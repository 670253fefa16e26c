//! The breaker on a clock that a test moves.

use super::*;

const AFTER: Duration = Duration::from_secs(2);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn normal(breaker: &Breaker, millis: u64) -> Verdict {
    breaker.verdict(at(millis), Priority::Normal)
}

#[test]
fn opens_when_the_oldest_append_is_too_old_and_closes_with_the_first_answer() {
    let breaker = Breaker::new(AFTER);
    let (first, second) = (breaker.begin(at(0)), breaker.begin(at(1_900)));
    assert_eq!(normal(&breaker, 1_400), Verdict::Closed);
    assert_eq!(normal(&breaker, 2_000), Verdict::Open, "those under way are the probe");
    assert_eq!(normal(&breaker, 60_000), Verdict::Open);
    second.succeeded(at(60_000));
    assert_eq!(normal(&breaker, 60_000), Verdict::Closed, "the first was made before it");
    first.failed(at(61_000));
    assert_eq!(normal(&breaker, 61_000), Verdict::Closed);
}

#[test]
fn stays_open_while_appends_that_count_are_too_old_however_many_older_ones_are_answered() {
    let breaker = Breaker::new(AFTER);
    let (first, second) = (breaker.begin(at(0)), breaker.begin(at(1_000)));
    first.succeeded(at(3_000));
    assert_eq!(normal(&breaker, 3_000), Verdict::Open);
    second.succeeded(at(3_100));
    assert_eq!(normal(&breaker, 3_100), Verdict::Closed);
}

#[test]
fn lower_classes_go_first_as_the_log_gets_slower() {
    let facts = Facts { waiting_since: Some(at(10_000)), ..Facts::default() };
    let verdicts = |waited: u64| {
        [Priority::Low, Priority::Normal, Priority::High]
            .map(|priority| judge(&facts, at(10_000 + waited), AFTER, priority))
    };
    use Verdict::{Closed, Open, Slow};
    assert_eq!(verdicts(999), [Closed, Closed, Closed]);
    assert_eq!(verdicts(1_000), [Slow, Closed, Closed]);
    assert_eq!(verdicts(1_500), [Slow, Slow, Closed]);
    assert_eq!(verdicts(2_000), [Open, Open, Open]);
}

#[test]
fn failures_in_a_row_open_it_and_then_one_request_at_a_time_finds_out() {
    let breaker = Breaker::new(AFTER);
    for _ in 0..4 {
        breaker.begin(at(0)).failed(at(1));
    }
    breaker.begin(at(1)).succeeded(at(2));
    for _ in 0..4 {
        breaker.begin(at(2)).failed(at(3));
    }
    assert_eq!(normal(&breaker, 3), Verdict::Closed);
    breaker.begin(at(3)).failed(at(4));
    assert!(breaker.is_open(at(4)));

    let verdicts: Vec<Verdict> = (0..100).map(|_| normal(&breaker, 10)).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Probe).count(), 1);
    let probe = breaker.begin(at(10));
    assert_eq!(normal(&breaker, 1_000), Verdict::Open, "the probe is under way");
    probe.failed(at(1_000));
    assert_eq!(normal(&breaker, 1_000), Verdict::Probe, "and came to nothing");
    breaker.begin(at(1_000)).succeeded(at(1_001));
    assert_eq!(normal(&breaker, 1_001), Verdict::Closed);
}

#[test]
fn a_probe_whose_request_never_gets_to_the_log_is_followed_by_another() {
    let breaker = Breaker::new(AFTER);
    breaker.begin(at(0)).failed(at(30_000));
    assert_eq!(normal(&breaker, 30_000), Verdict::Probe, "one append that failed late is enough");
    assert_eq!(normal(&breaker, 30_499), Verdict::Open);
    assert_eq!(normal(&breaker, 30_500), Verdict::Probe);
}

#[test]
fn an_append_that_is_forgotten_has_failed_and_one_that_tells_nothing_has_not() {
    let breaker = Breaker::new(AFTER);
    (0..4).for_each(|_| drop(breaker.begin(at(0))));
    breaker.begin(at(0)).inconclusive();
    assert_eq!(breaker.facts(), Facts { failures: 4, ..Facts::default() });
    drop(breaker.begin(at(0)));
    assert!(breaker.is_open(at(0)));
}

#[test]
fn when_others_tell_that_the_log_hangs_one_request_finds_out_for_this_dataset() {
    let breaker = Breaker::new(AFTER);
    assert_eq!(breaker.verdict_by_others(at(0)), Verdict::Probe);
    assert_eq!(breaker.verdict_by_others(at(0)), Verdict::Open);
    breaker.begin(at(0)).succeeded(at(5));
    assert!(breaker.is_proven(at(5)) && !breaker.is_proven(at(2_005)));
    assert_eq!(normal(&breaker, 5), Verdict::Closed);
}

#[test]
fn what_ends_is_forgotten_in_whatever_order_it_ends() {
    let breaker = Breaker::new(AFTER);
    let mut appends: Vec<UnderWay> = (0..1_000).map(|millis| breaker.begin(at(millis))).collect();
    assert_eq!(breaker.facts().waiting_since, Some(at(0)));
    for place in [500, 0, 300] {
        appends.remove(place).inconclusive();
    }
    assert_eq!(breaker.facts().waiting_since, Some(at(1)));
    appends.into_iter().rev().for_each(UnderWay::inconclusive);
    assert_eq!(breaker.facts(), Facts::default());
    assert!(breaker.lock().begun.is_empty());
}
