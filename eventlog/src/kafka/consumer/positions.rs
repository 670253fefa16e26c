//! Where each partition is read on, in the face of what librdkafka does not tell.
//!
//! It stops fetching at a position that the log does not hold and does not say of which partition, so all are looked at;
//! and it passes over the ends of transactions, which take offsets and are no records: whoever compares a position with
//! the end of a partition would wait for them for ever.

use super::{ANSWERS_WITHIN, KafkaConsumer};
use crate::kafka::{describe, rebalance};
use crate::{Consumer, LogError, Position};
use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;

impl KafkaConsumer {
    /// Finds a partition whose position the brokers do not hold.
    pub(super) fn out_of_range(&mut self) -> Result<Option<i32>, LogError> {
        if !self.position_lost || self.unanswered.is_some() {
            return Ok(None);
        }
        let running: Vec<(i32, i64)> = self
            .assigned
            .iter()
            .filter(|(_, reading)| !reading.stopped)
            .map(|(p, reading)| (*p, reading.next))
            .collect();
        for (partition, next) in &running {
            let bounds = self.bounds(*partition, ANSWERS_WITHIN)?;
            if !(bounds.first..=bounds.next).contains(next) {
                if let Some(reading) = self.assigned.get_mut(partition) {
                    reading.stopped = true;
                }
                return Ok(Some(*partition));
            }
        }
        // All were told, or the log has grown up to the position meanwhile: then fetching has to be started again.
        self.position_lost = false;
        for (partition, _) in running {
            self.restart(partition)?;
        }
        Ok(None)
    }

    /// Starts fetching anew at the position that is noted.
    pub(super) fn restart(&mut self, partition: i32) -> Result<(), LogError> {
        const SEEK: &str = "seek";
        let Some(reading) = self.assigned.get_mut(&partition) else { return Ok(()) };
        (reading.stopped, reading.moved) = (false, false);
        let cooperative =
            matches!(self.consumer.rebalance_protocol(), rdkafka::consumer::RebalanceProtocol::Cooperative);
        let again: Vec<Position> = self.positions().filter(|p| !cooperative || p.partition == partition).collect();
        let list = self.list(&again)?;
        if cooperative {
            self.consumer.incremental_unassign(&list).map_err(|err| describe(SEEK, &err))?;
        }
        rebalance::take(&self.consumer, &list).map_err(|err| describe(SEEK, &err))?;
        let paused = self.assigned.iter().filter(|(_, reading)| reading.paused).map(|(partition, _)| *partition);
        let paused: Vec<i32> = paused.filter(|p| !cooperative || *p == partition).collect();
        if paused.is_empty() { Ok(()) } else { self.pause(&paused) }
    }

    fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.assigned.iter().map(|(partition, reading)| Position { partition: *partition, offset: reading.next })
    }

    /// Tells librdkafka of the seeks that had to wait for a rebalance.
    pub(super) fn catch_up_seeks(&mut self) -> Result<(), LogError> {
        let moved: Vec<i32> =
            self.assigned.iter().filter(|(_, reading)| reading.moved).map(|(partition, _)| *partition).collect();
        moved.into_iter().try_for_each(|partition| self.restart(partition))
    }

    /// Where librdkafka reads on. Behind the last record that was handed out it may have skipped the end of a
    /// transaction, which takes an offset of the partition and is no record.
    fn passed(&self, partition: i32) -> Option<i64> {
        let position = self.consumer.position().ok()?.find_partition(&self.topic, partition)?.offset();
        match position {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// The end of a partition, where there is nothing but ends of transactions between the last record and it.
    pub(super) fn without_markers(&self, partition: i32, end: i64) -> i64 {
        match self.assigned.get(&partition) {
            Some(reading) if reading.next < end && self.passed(partition).is_some_and(|passed| passed >= end) => {
                reading.next
            }
            _ => end,
        }
    }

    /// What lag tools are told: they would take the end of a transaction for a record that is never read.
    pub(super) fn with_markers(&self, position: &Position) -> i64 {
        match self.assigned.get(&position.partition) {
            Some(reading) if reading.next == position.offset => {
                self.passed(position.partition).unwrap_or_default().max(position.offset)
            }
            _ => position.offset,
        }
    }
}
