use super::*;
use proptest::prelude::*;

const SPAN: i64 = 1_000;
const AMPLE: usize = 1 << 20;
/// Bytes of the smallest slice.
const FIRST_BYTES: usize = table_bytes(FIRST_KEYS);

fn window(limit: usize) -> Window {
    Window::new(Duration::from_micros(SPAN as u64), limit, Secret::random())
}

/// What the window is to do, without its economies: every row that was written, for ever.
#[derive(Default)]
struct Model {
    written: Vec<(u8, i64)>,
}

impl Model {
    fn times(&self, id: u8) -> impl Iterator<Item = i64> {
        self.written.iter().filter(move |(written, _)| *written == id).map(|(_, at)| *at)
    }

    fn repeats(&self, id: u8, at: i64) -> bool {
        self.times(id).any(|time| time.abs_diff(at) <= SPAN as u64)
    }
}

fn name(id: u8) -> String {
    format!("event-{id}")
}

proptest! {
    #[test]
    fn events_in_the_order_of_their_times_repeat_exactly_what_the_model_says(
        events in prop::collection::vec((any::<u8>(), 0..400i64), 0..600),
    ) {
        let (mut window, mut model, mut at) = (window(AMPLE), Model::default(), 0);
        for (id, later) in events {
            at += later;
            let expected = model.repeats(id, at);
            prop_assert_eq!(window.repeats("d", &name(id), at), expected);
            if !expected {
                model.written.push((id, at));
            }
        }
    }

    #[test]
    fn whatever_the_order_only_repeated_events_are_found_and_all_younger_than_the_span(
        events in prop::collection::vec((any::<u8>(), 0..5_000i64), 0..600),
    ) {
        let (mut window, mut model) = (window(AMPLE), Model::default());
        for (id, at) in events {
            let horizon = window.horizon();
            let must = model.times(id).any(|time| time >= horizon && time.abs_diff(at) <= SPAN as u64);
            let found = window.repeats("d", &name(id), at);
            prop_assert!(!found || model.repeats(id, at));
            prop_assert!(found || !must);
            if !found {
                model.written.push((id, at));
            }
        }
    }

    #[test]
    fn memory_stays_within_its_limit_and_nothing_new_is_taken_for_repeated(
        steps in prop::collection::vec(0..4i64, 1..4_000),
        limit in 4 * FIRST_BYTES..40 * FIRST_BYTES,
    ) {
        let (mut window, mut at) = (window(limit), 0);
        let mut times = Vec::new();
        for (number, later) in steps.into_iter().enumerate() {
            at += later;
            prop_assert!(!window.repeats("d", &number.to_string(), at));
            prop_assert!(window.bytes() <= limit, "{} of {limit}", window.bytes());
            times.push(at);
        }
        // What it says of its reach is true.
        let reach = window.reaches_back().as_micros() as i64;
        prop_assert_eq!(window.is_cut(), reach < SPAN);
        for (number, time) in times.into_iter().enumerate() {
            if at - time < reach {
                prop_assert!(window.repeats("d", &number.to_string(), at));
            }
        }
    }

    #[test]
    fn a_window_made_of_rows_in_any_order_knows_what_one_knows_that_saw_them_come(
        rows in prop::collection::vec((any::<u8>(), 0..3_000i64), 0..300),
        shuffled in any::<prop::sample::Index>(),
        later in 0..1_500i64,
    ) {
        let mut live = window(AMPLE);
        let mut rows = rows;
        rows.sort_by_key(|(_, at)| *at);
        rows.retain(|(id, at)| !live.repeats("d", &name(*id), *at));
        let newest = rows.last().map_or(0, |(_, at)| *at);
        let middle = if rows.is_empty() { 0 } else { shuffled.index(rows.len()) };
        rows.rotate_left(middle);
        let mut rebuilt = window(AMPLE);
        for (id, at) in &rows {
            rebuilt.remember("d", &name(*id), *at);
        }
        for id in 0..=u8::MAX {
            prop_assert_eq!(rebuilt.repeats("d", &name(id), newest + later), live.repeats("d", &name(id), newest + later));
        }
    }
}

#[test]
fn the_same_id_of_another_device_is_another_event() {
    let mut window = window(AMPLE);
    assert!(!window.repeats("a", "bc", 0));
    assert!(!window.repeats("ab", "c", 0));
    assert!(!window.repeats("", "abc", 0));
    assert!(window.repeats("a", "bc", 0));
}

#[test]
fn a_repeated_event_does_not_prolong_the_time_of_the_first() {
    let mut window = window(AMPLE);
    assert!(!window.repeats("d", "x", 0));
    assert!(window.repeats("d", "x", SPAN));
    assert!(!window.repeats("d", "x", SPAN + 1));
    assert!(window.repeats("d", "x", SPAN + 2));
}

#[test]
fn of_a_row_that_the_table_has_twice_the_later_counts() {
    for times in [[0, 100], [100, 0]] {
        let mut window = window(AMPLE);
        times.into_iter().for_each(|at| window.remember("d", "x", at));
        assert!(window.repeats("d", "x", SPAN + 100));
    }
}

#[test]
fn at_the_limit_the_oldest_go_and_room_given_back_is_used_again() {
    let mut window = window(32 * FIRST_BYTES);
    let fill = |window: &mut Window, from: i64| {
        (0..20_000i64).for_each(|n| assert!(!window.repeats("d", &format!("{from}-{n}"), from + n / 40)));
    };
    fill(&mut window, 0);
    assert!(window.is_cut() && window.reaches_back() < Duration::from_micros(SPAN as u64 / 4));
    assert!(window.repeats("d", "0-19999", 500) && !window.repeats("d", "0-0", 500));
    window.set_limit(AMPLE);
    fill(&mut window, 600);
    assert!(window.repeats("d", "600-0", 600 + 499));
    window.repeats("d", "last", 600 + 2 * SPAN);
    assert!(!window.is_cut() && window.reaches_back() == Duration::from_micros(SPAN as u64));
    window.set_limit(2 * FIRST_BYTES);
    assert!(window.bytes() <= 2 * FIRST_BYTES);
}

#[test]
fn fingerprints_differ_from_process_to_process() {
    let fingerprint = || window(AMPLE).fingerprint("d", "x");
    assert_ne!(fingerprint(), fingerprint());
}

#[test]
fn of_rows_read_backwards_the_youngest_stay() {
    let mut window = window(8 * FIRST_BYTES);
    // Three files, the youngest first, each in the order of its times, all in one slice of time.
    for file in [600..900i64, 300..600, 0..300] {
        for at in file {
            window.remember("d", &at.to_string(), at / 4);
        }
    }
    assert!(window.is_cut() && window.bytes() <= 8 * FIRST_BYTES);
    assert!(window.repeats("d", "899", 225) && window.repeats("d", "600", 225));
    assert!(!window.repeats("d", "0", 225));
}
