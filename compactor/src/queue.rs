//! The merges of one table that are worth it and not begun, and which of them is next.
//!
//! Dates take turns, so that a backlog on one does not hold up the others; the newest comes first, for most queries read
//! it. A date is planned as a whole: as long as merges of it wait or are under way, no others are made up for it.

use crate::plan::MergeJob;
use chrono::NaiveDate;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Default)]
pub(crate) struct Queue {
    dates: BTreeMap<NaiveDate, Dated>,
    /// Dates that are left alone: a merge of them has failed.
    resting: BTreeSet<NaiveDate>,
    begun: u64,
}

#[derive(Debug, Default)]
struct Dated {
    waiting: VecDeque<MergeJob>,
    under_way: usize,
    /// When a merge of it was begun last, in merges begun.
    begun_at: u64,
}

impl Queue {
    /// Takes in a new plan, except for dates that are being worked on.
    pub(crate) fn fill(&mut self, jobs: impl IntoIterator<Item = MergeJob>) {
        let is_free = |dated: &Dated| dated.under_way == 0 && dated.waiting.is_empty();
        let busy: BTreeSet<NaiveDate> =
            self.dates.iter().filter(|(_, dated)| !is_free(dated)).map(|(date, _)| *date).collect();
        for job in jobs {
            if !busy.contains(&job.date) && !self.resting.contains(&job.date) {
                self.dates.entry(job.date).or_default().waiting.push_back(job);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dates.values().all(|dated| dated.waiting.is_empty())
    }

    /// The next merge, which counts as under way from now on.
    pub(crate) fn next(&mut self) -> Option<MergeJob> {
        let waiting = self.dates.iter_mut().filter(|(_, dated)| !dated.waiting.is_empty());
        let (_, dated) = waiting.min_by_key(|(date, dated)| (dated.under_way, dated.begun_at, Reverse(**date)))?;
        self.begun += 1;
        dated.begun_at = self.begun;
        dated.under_way += 1;
        dated.waiting.pop_front()
    }

    /// A merge that was under way has ended.
    pub(crate) fn ended(&mut self, date: NaiveDate) {
        if let Some(dated) = self.dates.get_mut(&date) {
            dated.under_way = dated.under_way.saturating_sub(1);
        }
    }

    /// Leaves a date alone from now on.
    pub(crate) fn rest(&mut self, date: NaiveDate) {
        self.resting.insert(date);
        if let Some(dated) = self.dates.get_mut(&date) {
            dated.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(day: u32) -> MergeJob {
        MergeJob { date: NaiveDate::from_ymd_opt(2026, 11, day).unwrap(), inputs: Vec::new() }
    }

    fn next_days(queue: &mut Queue, n: usize) -> Vec<u32> {
        (0..n).map_while(|_| queue.next()).map(|job| chrono::Datelike::day(&job.date)).collect()
    }

    #[test]
    fn dates_take_turns_and_the_newest_begins() {
        let mut queue = Queue::default();
        queue.fill([job(1), job(1), job(1), job(2), job(3)]);
        assert_eq!(next_days(&mut queue, 9), [3, 2, 1, 1, 1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_date_with_a_merge_under_way_comes_after_one_without() {
        let mut queue = Queue::default();
        queue.fill([job(1), job(1), job(2), job(2)]);
        assert_eq!(next_days(&mut queue, 2), [2, 1]);
        queue.ended(job(1).date);
        assert_eq!(next_days(&mut queue, 2), [1, 2]);
    }

    #[test]
    fn a_date_is_planned_anew_only_when_nothing_of_it_waits_or_is_under_way() {
        let mut queue = Queue::default();
        queue.fill([job(1), job(1)]);
        queue.fill([job(1), job(2)]);
        assert_eq!(next_days(&mut queue, 9), [2, 1, 1]);
        queue.ended(job(1).date);
        queue.fill([job(1)]);
        assert!(next_days(&mut queue, 9).is_empty());
        queue.ended(job(1).date);
        queue.fill([job(1)]);
        assert_eq!(next_days(&mut queue, 9), [1]);
    }

    #[test]
    fn a_date_whose_merge_failed_is_left_alone() {
        let mut queue = Queue::default();
        queue.fill([job(1), job(1), job(2)]);
        queue.rest(job(1).date);
        queue.fill([job(1)]);
        assert_eq!(next_days(&mut queue, 9), [2]);
    }
}
