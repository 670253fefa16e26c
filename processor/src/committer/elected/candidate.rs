//! The thread of a candidate: stands for election, reads the control topic while it is elected, and tells the task.

use super::{HEARD, Heard, Order};
use eventlog::{Bounds, Consumer, Input, Log, LogError, Position};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Longest wait of a poll: how late the thread may notice that it has to leave.
const POLL_FOR: Duration = Duration::from_millis(100);
/// The same while the task is looking up where to read.
const POLL_FOR_ORDERS: Duration = Duration::from_millis(10);
const BOUNDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a candidate that stepped back, or could not read, stays out of the election.
const STAND_AGAIN: Duration = Duration::from_secs(5);
/// With so little room left for what was heard, the partition is paused.
const LITTLE_ROOM: usize = HEARD / 2;

pub(super) struct Candidate {
    pub(super) log: Arc<dyn Log>,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) orders: std::sync::mpsc::Receiver<Order>,
    pub(super) stop: CancellationToken,
}

/// How far a candidate has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    /// The group has elected this one, which has yet to learn where to read.
    Elected,
    Reading {
        paused: bool,
    },
}

/// What a candidate does after it has left the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    StandAgain,
    Abstain,
}

impl Candidate {
    pub(super) fn run(self) {
        while !self.is_over() {
            let joined = self.log.shared().map(|shared| shared.candidate(&self.topic, &self.group));
            let served = match joined {
                Some(Ok(consumer)) => self.serve(consumer),
                Some(Err(err)) => Err(err),
                None => return,
            };
            match served {
                Ok(Next::StandAgain) => {}
                Ok(Next::Abstain) => return,
                Err(err) => warn!(error = %err, topic = self.topic, "the control topic cannot be read, trying again"),
            }
            let until = Instant::now() + STAND_AGAIN;
            while !self.is_over() && Instant::now() < until {
                std::thread::sleep(POLL_FOR_ORDERS);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.heard.is_closed()
    }

    /// Stands, and reads while it is elected; returns when it has left the group.
    fn serve(&self, mut consumer: Box<dyn Consumer>) -> Result<Next, LogError> {
        let served = self.serve_until_told(&mut *consumer);
        let left = consumer.close();
        self.tell(Heard::Resigned);
        left.and(served)
    }

    fn serve_until_told(&self, consumer: &mut dyn Consumer) -> Result<Next, LogError> {
        let (mut standing, mut wanted) = (Standing::Waiting, None);
        while !self.is_over() {
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::ReadFrom(position) => wanted = Some(position),
                    Order::StepBack => return Ok(Next::StandAgain),
                    Order::Abstain => return Ok(Next::Abstain),
                }
            }
            let step = self.step(consumer, &mut standing, &mut wanted);
            match step {
                Err(err) if err.is_retryable() => {
                    warn!(error = %err, topic = self.topic, "the control topic does not answer, trying again");
                    std::thread::sleep(Duration::from_millis(200));
                }
                step => step?,
            }
        }
        Ok(Next::StandAgain)
    }

    fn step(
        &self,
        consumer: &mut dyn Consumer,
        standing: &mut Standing,
        wanted: &mut Option<Option<i64>>,
    ) -> Result<(), LogError> {
        if let (Standing::Elected, Some(position)) = (*standing, *wanted) {
            let offset = first_to_read(position, consumer.bounds(0, BOUNDS_WITHIN)?);
            consumer.assign(&[Position { partition: 0, offset }])?;
            debug!(offset, topic = self.topic, "reading announcements");
            (*standing, *wanted) = (Standing::Reading { paused: false }, None);
        }
        if let Standing::Reading { paused } = standing {
            let behind = self.heard.capacity() < LITTLE_ROOM;
            match (behind, *paused) {
                (true, false) => consumer.pause(&[0])?,
                (false, true) => consumer.resume(&[0])?,
                _ => {}
            }
            *paused = behind;
        }
        let mut records = Vec::new();
        let wait = if *standing == Standing::Elected { POLL_FOR_ORDERS } else { POLL_FOR };
        let input = consumer.poll(wait, &mut |record| {
            records.push((record.offset, record.value.unwrap_or_default().to_vec()));
        })?;
        match input {
            Input::Idle => {}
            Input::Records(_) => self.tell(Heard::Records(records)),
            Input::Assigned(_) => {
                // A position that was asked for in an earlier term may be an old one.
                (*standing, *wanted) = (Standing::Elected, None);
                self.tell(Heard::Elected);
            }
            Input::Revoked(partitions) => {
                // What is under way may go on: the table decides between this one and the next.
                *standing = Standing::Waiting;
                consumer.release(&partitions)?;
                self.tell(Heard::Resigned);
            }
            Input::Lost(_) => {
                *standing = Standing::Waiting;
                self.tell(Heard::Resigned);
            }
            Input::OutOfRange(partition) => {
                let offset = consumer.bounds(partition, BOUNDS_WITHIN)?.first;
                consumer.seek(Position { partition, offset })?;
            }
        }
        Ok(())
    }

    fn tell(&self, heard: Heard) {
        // The task may have ended; the thread ends then, too.
        let _ = self.heard.blocking_send(heard);
    }
}

/// The table's position, or the first record that is left: records that were deleted or lost are announced again by
/// whoever waits for them, and so are those of a topic that was made anew.
fn first_to_read(position: Option<i64>, bounds: Bounds) -> i64 {
    position.filter(|position| (bounds.first..=bounds.next).contains(position)).unwrap_or(bounds.first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_starts_at_the_position_or_at_what_is_left() {
        let bounds = Bounds { first: 10, next: 20 };
        let cases = [(None, 10), (Some(9), 10), (Some(10), 10), (Some(17), 17), (Some(20), 20), (Some(21), 10)];
        for (position, first) in cases {
            assert_eq!(first_to_read(position, bounds), first, "{position:?}");
        }
    }
}
