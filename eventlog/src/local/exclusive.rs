//! One writer alone, in the local log.
//!
//! The directory belongs to one process, so a writer of another process is dead, and what it had written is on the disk
//! or nowhere. Within the process a number tells the newest writer; it is looked at under the lock that an append holds
//! until it is answered.

use super::consumer::LocalConsumer;
use super::topic::Topic;
use super::writer::Command;
use super::{Shared, lock, whole};
use crate::{Bounds, Consumer, Exclusive, Input, LogError, OwnedRecord, Position, Record, WholeError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

pub(super) struct LocalExclusive {
    shared: Arc<Shared>,
    commands: UnboundedSender<Command>,
    topic: Arc<Topic>,
    /// Newer writers have greater numbers.
    number: u64,
}

impl LocalExclusive {
    pub(super) fn open(shared: Arc<Shared>, commands: UnboundedSender<Command>, topic: Arc<Topic>) -> LocalExclusive {
        let mut newest = lock(&topic.exclusive);
        *newest += 1;
        let number = *newest;
        drop(newest);
        LocalExclusive { shared, commands, topic, number }
    }

    fn bounds_of(&self, partition: i32) -> Bounds {
        let offset = |found: Option<i64>| found.unwrap_or_default();
        Bounds { first: offset(self.topic.first(partition)), next: offset(self.topic.next(partition)) }
    }
}

impl Exclusive for LocalExclusive {
    fn bounds(&mut self) -> Result<Vec<Bounds>, LogError> {
        Ok((0..self.topic.partitions as i32).map(|partition| self.bounds_of(partition)).collect())
    }

    fn append(&mut self, records: Vec<OwnedRecord>) -> Result<Vec<Position>, WholeError> {
        let newest = lock(&self.topic.exclusive);
        if *newest != self.number {
            return Err(WholeError::Superseded { topic: self.topic.name.clone() });
        }
        futures::executor::block_on(whole::append(&self.shared, &self.commands, &self.topic.name, records))
    }

    fn read(&mut self, from: &[Position], sink: &mut dyn FnMut(Record<'_>)) -> Result<(), LogError> {
        let ends = self.bounds()?;
        let group = format!("exclusive-{}", self.number);
        let mut consumer = LocalConsumer::join(Arc::clone(&self.shared), Arc::clone(&self.topic), &group)?;
        consumer.poll(Duration::ZERO, &mut |_| {})?;
        consumer.assign(from)?;
        let end = |position: &Position| ends.get(position.partition as usize).map_or(0, |bounds| bounds.next);
        let mut left: i64 = from.iter().map(|position| (end(position) - position.offset).max(0)).sum();
        while left > 0 {
            let mut count = |record: Record<'_>| {
                let place = Position { partition: record.partition, offset: record.offset };
                if record.offset < end(&place) {
                    left -= 1;
                    sink(record);
                }
            };
            if let Input::OutOfRange(partition) = consumer.poll(Duration::ZERO, &mut count)? {
                let reason = format!("partition {partition} no longer holds the offsets to read");
                return Err(LogError::Fatal { what: "read the local log", reason });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{LocalLog, LocalOptions};
    use crate::{AppendError, Log};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_header_that_cannot_be_framed_keeps_the_whole_of_an_append_out() {
        let directory = tempfile::tempdir().unwrap();
        let log = LocalLog::open(directory.path().join("log"), LocalOptions::default()).unwrap();
        log.ensure_topic("events", 1).await.unwrap();
        let mut writer = log.exclusive("events").unwrap();
        let long = OwnedRecord { headers: vec![("n".repeat(70_000), None)], ..OwnedRecord::default() };
        let refusal = tokio::task::block_in_place(|| writer.append(vec![OwnedRecord::default(), long])).unwrap_err();
        assert!(matches!(refusal, WholeError::Refused(AppendError::TooLarge { .. })), "{refusal}");
        assert_eq!(writer.bounds().unwrap(), [Bounds { first: 0, next: 0 }]);
    }
}
