//! Decides which segments are deleted.
//!
//! A segment goes only if every group that reads the topic has committed all of it to its table, whatever the limits
//! say; with no group known nothing goes. What is left is a matter of age, of the topic's bytes, and of the disk
//! budget of the whole log, which alone overrules the other two.

use super::topic::Topic;
use super::writer::Command;
use super::{Shared, lock, now_ms};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

/// A segment as far as retention cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) bytes: u64,
    pub(super) newest_ms: i64,
    /// Next offset of each partition behind this segment.
    pub(super) end: Vec<i64>,
}

/// What the limits ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) age: Option<Duration>,
    pub(super) bytes: Option<u64>,
    /// Bytes by which the whole log is over its budget.
    pub(super) over_budget: u64,
}

/// What to do with one topic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// So many of the oldest segments are deleted.
    pub(super) delete: usize,
    /// The segment that is written to would be deleted too if it were not written to.
    pub(super) roll: bool,
}

/// `segments` oldest first, the last one being written to; `committed` is the next offset that the slowest group needs.
pub(super) fn plan(segments: &[Facts], committed: Option<&[i64]>, now_ms: i64, policy: &Policy) -> Plan {
    let mut plan = Plan::default();
    let Some(committed) = committed else { return plan };
    let mut held: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut over_budget = policy.over_budget;
    for (index, segment) in segments.iter().enumerate() {
        let safe = segment.end.iter().zip(committed).all(|(end, committed)| end <= committed);
        let old = policy.age.is_some_and(|age| segment.newest_ms.saturating_add(age.as_millis() as i64) <= now_ms);
        let spare = policy.bytes.is_some_and(|bytes| held - segment.bytes >= bytes);
        if !safe || !(old || spare || over_budget > 0) {
            break;
        }
        if index + 1 == segments.len() {
            plan.roll = segment.bytes > 0;
            break;
        }
        plan.delete += 1;
        held -= segment.bytes;
        over_budget = over_budget.saturating_sub(segment.bytes);
    }
    plan
}

/// Looks after retention until the log is closed.
pub(super) fn run(shared: &Arc<Shared>, commands: &UnboundedSender<Command>) {
    loop {
        let mut due = lock(&shared.retention_due);
        if !*due && !shared.closed.load(Ordering::Acquire) {
            let every = shared.options.retention_every;
            due = shared.retention_wake.wait_timeout(due, every).unwrap_or_else(PoisonError::into_inner).0;
        }
        *due = false;
        drop(due);
        save_hints(shared);
        if shared.closed.load(Ordering::Acquire) {
            return;
        }
        for topic in shared.topics() {
            apply(shared, &topic, commands);
        }
    }
}

/// One pass over one topic.
fn apply(shared: &Shared, topic: &Arc<Topic>, commands: &UnboundedSender<Command>) {
    let committed = lock(&topic.groups).committed(topic.partitions);
    let segments = topic.segments();
    let ends = segments.iter().skip(1).map(|segment| segment.start.clone()).chain([topic.all_next()]);
    let facts: Vec<Facts> = segments
        .iter()
        .zip(ends)
        .map(|(segment, end)| Facts { bytes: segment.held().bytes, newest_ms: segment.held().newest_ms, end })
        .collect();
    let policy = Policy {
        age: shared.options.retain_age,
        bytes: shared.options.retain_bytes,
        over_budget: shared.live_bytes.load(Ordering::Acquire).saturating_sub(shared.comfortable_bytes()),
    };
    let plan = plan(&facts, committed.as_deref(), now_ms(), &policy);
    drop(segments);
    for segment in topic.take_oldest(plan.delete) {
        let (number, bytes, name) = (segment.number, segment.held().bytes, segment.name(&topic.name));
        shared.live_bytes.fetch_sub(bytes, Ordering::AcqRel);
        match shared.store.delete_segment(&topic.name, number, segment.keyspace.clone()) {
            Ok(()) => info!(segment = name, bytes, "segment deleted"),
            Err(err) => shared.fail(format!("delete a segment: {err}")),
        }
    }
    if plan.roll {
        let _ = commands.send(Command::Roll(Arc::clone(topic)));
    }
}

/// Writes hints that changed to the store.
fn save_hints(shared: &Shared) {
    for topic in shared.topics() {
        let unsaved: Vec<(String, Vec<i64>)> = {
            let mut groups = lock(&topic.groups);
            let names = std::mem::take(&mut groups.unsaved);
            names.into_iter().filter_map(|name| Some((name.clone(), groups.hints.get(&name)?.clone()))).collect()
        };
        for (group, offsets) in unsaved {
            if let Err(err) = shared.store.put_hint(&topic.name, &group, &offsets) {
                warn!(topic = topic.name, group, %err, "group offsets not saved; more records than needed are kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(bytes: u64, newest_ms: i64, end: i64) -> Facts {
        Facts { bytes, newest_ms, end: vec![end] }
    }

    const NO_LIMIT: Policy = Policy { age: None, bytes: None, over_budget: 0 };

    #[test]
    fn nothing_is_deleted_while_no_group_is_known() {
        let segments = [segment(10, 0, 5), segment(10, 0, 9)];
        let policy = Policy { age: Some(Duration::ZERO), bytes: Some(0), over_budget: 100 };
        assert_eq!(plan(&segments, None, 1_000, &policy), Plan::default());
    }

    #[test]
    fn a_limit_of_bytes_keeps_at_least_so_many() {
        let segments = [segment(10, 0, 5), segment(10, 0, 9), segment(10, 0, 12)];
        let policy = Policy { bytes: Some(15), ..NO_LIMIT };
        assert_eq!(plan(&segments, Some(&[100]), 0, &policy), Plan { delete: 1, roll: false });
    }

    #[test]
    fn an_old_segment_that_is_written_to_is_ended_first() {
        let segments = [segment(10, 0, 5), segment(10, 0, 9)];
        let policy = Policy { age: Some(Duration::from_millis(10)), ..NO_LIMIT };
        assert_eq!(plan(&segments, Some(&[9]), 10, &policy), Plan { delete: 1, roll: true });
        assert_eq!(plan(&segments, Some(&[8]), 10, &policy), Plan { delete: 1, roll: false });
        assert_eq!(plan(&segments, Some(&[9]), 9, &policy), Plan::default());
    }

    #[test]
    fn the_budget_deletes_no_more_than_it_must() {
        let segments = [segment(10, 0, 5), segment(10, 0, 9), segment(10, 0, 12)];
        let policy = Policy { over_budget: 7, ..NO_LIMIT };
        assert_eq!(plan(&segments, Some(&[100]), 0, &policy), Plan { delete: 1, roll: false });
    }

    proptest! {
        #[test]
        fn nothing_at_or_above_the_hint_is_deleted(
            lengths in proptest::collection::vec((0u64..50, 0i64..20, 0i64..20), 1..12),
            committed in (0i64..150, 0i64..150),
            age in proptest::option::of(0u64..30),
            bytes in proptest::option::of(0u64..300),
            over_budget in 0u64..300,
        ) {
            let mut end = (0, 0);
            let segments: Vec<Facts> = lengths.iter().enumerate().map(|(i, (bytes, a, b))| {
                end = (end.0 + a, end.1 + b);
                Facts { bytes: *bytes, newest_ms: i as i64, end: vec![end.0, end.1] }
            }).collect();
            let policy = Policy { age: age.map(Duration::from_millis), bytes, over_budget };
            let committed = [committed.0, committed.1];
            let plan = plan(&segments, Some(&committed), 20, &policy);
            prop_assert!(plan.delete < segments.len());
            for segment in &segments[..plan.delete] {
                prop_assert!(segment.end.iter().zip(&committed).all(|(end, committed)| end <= committed));
            }
        }
    }
}
