//! A consumer of the log in memory. It checks that assignments are answered as Kafka wants it.

use super::log::{Shared, record};
use eventlog::{Bounds, Consumer, Input, LogError, Position, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) struct MemoryConsumer {
    shared: Arc<Mutex<Shared>>,
    number: usize,
    assigned: Vec<i32>,
    positions: BTreeMap<i32, i64>,
    paused: BTreeSet<i32>,
}

impl MemoryConsumer {
    pub(super) fn join(topic: &Arc<Mutex<Shared>>) -> MemoryConsumer {
        let mut shared = topic.lock().unwrap();
        let all = (0..shared.partitions.len() as i32).collect();
        let told = if shared.waiting { VecDeque::new() } else { VecDeque::from([Input::Assigned(all)]) };
        shared.told.push(told);
        MemoryConsumer {
            shared: Arc::clone(topic),
            number: shared.told.len() - 1,
            assigned: Vec::new(),
            positions: BTreeMap::new(),
            paused: BTreeSet::new(),
        }
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Input, LogError> {
        let mut shared = self.shared.lock().unwrap();
        if let Some(failure) = shared.failure {
            return Err(failure());
        }
        if shared.failing_polls > 0 {
            shared.failing_polls -= 1;
            return Err(LogError::Unavailable { what: "read a topic", reason: "a passing error".into() });
        }
        if let Some(told) = shared.told[self.number].pop_front() {
            if let Input::Assigned(partitions) = &told {
                self.assigned = partitions.clone();
            }
            return Ok(told);
        }
        let mut count = 0;
        for (partition, position) in &mut self.positions {
            let log = &shared.partitions[*partition as usize];
            if self.paused.contains(partition) {
                continue;
            }
            if *position < log.first {
                return Ok(Input::OutOfRange(*partition));
            }
            let next = (*position..).zip(log.records.iter().skip(*position as usize));
            for (offset, (value, timestamp_ms)) in next.filter(|(offset, _)| !log.holes.contains(offset)).take(100) {
                sink(record(*partition, offset, value, *timestamp_ms));
                *position = offset + 1;
                count += 1;
            }
        }
        drop(shared);
        if count == 0 {
            std::thread::sleep(max_wait.min(Duration::from_millis(2)));
            return Ok(Input::Idle);
        }
        Ok(Input::Records(count))
    }

    fn assign(&mut self, from: &[Position]) -> Result<(), LogError> {
        let mut answered: Vec<i32> = from.iter().map(|position| position.partition).collect();
        answered.sort();
        assert_eq!(answered, self.assigned, "an assignment is answered as a whole");
        self.shared.lock().unwrap().assigned.extend(from);
        self.positions.extend(from.iter().map(|position| (position.partition, position.offset)));
        self.paused.retain(|partition| !answered.contains(partition));
        Ok(())
    }

    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.positions.retain(|partition, _| !partitions.contains(partition));
        self.shared.lock().unwrap().released.extend(partitions);
        Ok(())
    }

    fn seek(&mut self, to: Position) -> Result<(), LogError> {
        self.positions.insert(to.partition, to.offset);
        Ok(())
    }

    fn pause(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.paused.extend(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[i32]) -> Result<(), LogError> {
        self.paused.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    fn bounds(&mut self, partition: i32, _: Duration) -> Result<Bounds, LogError> {
        let mut shared = self.shared.lock().unwrap();
        shared.questions += 1;
        if let Some(failure) = shared.failure {
            return Err(failure());
        }
        let log = &shared.partitions[partition as usize];
        let end = log.records.len() as i64;
        // As Kafka's: the end of transactions behind the last record count as read, once that is.
        let read = self.positions.get(&partition).filter(|read| (**read..end).all(|at| log.holes.contains(&at)));
        Ok(Bounds { first: log.first, next: read.copied().unwrap_or(end) })
    }

    fn end_offset(&self, partition: i32) -> Option<i64> {
        Some(self.shared.lock().unwrap().partitions[partition as usize].records.len() as i64)
    }

    fn commit_hint(&mut self, next: &[Position]) -> Result<(), LogError> {
        self.shared.lock().unwrap().hints.extend(next.iter().map(|p| (p.partition, p.offset)));
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        self.shared.lock().unwrap().gone += 1;
        Ok(())
    }
}
