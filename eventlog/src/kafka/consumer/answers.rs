//! Rebalances: what the caller is told of them, and what librdkafka is answered for it.
//!
//! librdkafka waits for one answer to each rebalance, and the caller may take its time for it. One that is overtaken by
//! the next is void; nobody may leave without an answer, or leaving would not end.

use super::{KafkaConsumer, Unanswered};
use crate::Input;
use crate::kafka::rebalance::{self, Event};
use rdkafka::consumer::Consumer as _;
use std::collections::BTreeSet;
use tracing::debug;

impl KafkaConsumer {
    /// A rebalance that has happened, as input.
    pub(super) fn rebalanced(&mut self) -> Option<Input> {
        let waiting = if self.unanswered.is_none() { self.to_tell.pop_front() } else { None };
        let event = waiting.or_else(|| self.consumer.context().next_event())?;
        if let Some(overtaken) = self.unanswered.take() {
            return Some(self.overtake(overtaken, event));
        }
        Some(match event {
            Event::Assigned(partitions) => {
                self.unanswered = Some(Unanswered::Assigned(partitions.iter().copied().collect()));
                Input::Assigned(partitions)
            }
            Event::Revoked(partitions) => {
                let kept = partitions.iter().copied().collect();
                self.unanswered = Some(Unanswered::Revoked { all: partitions.clone(), kept });
                Input::Revoked(partitions)
            }
            Event::Lost(partitions) => {
                self.assigned.retain(|partition, _| !partitions.contains(partition));
                Input::Lost(partitions)
            }
        })
    }

    /// librdkafka waits for an answer, except when the topic has got more partitions or the session is lost: then it goes
    /// on without, as if the answer had been given. What was unanswered is made up for, and the caller told that it is
    /// void.
    fn overtake(&mut self, overtaken: Unanswered, by: Event) -> Input {
        let (void, next) = match (overtaken, by) {
            // The others own them by now.
            (Unanswered::Revoked { all, .. }, by) => {
                if let Err(err) = rebalance::give(&self.consumer, &self.partitions(&all)) {
                    debug!(%err, "overtaken revocation not answered");
                }
                self.assigned.retain(|partition, _| !all.contains(partition));
                (all, vec![by])
            }
            // The group takes them for ours, so they have to be taken after all.
            (Unanswered::Assigned(before), Event::Assigned(more)) => {
                let all = before.iter().copied().chain(more).collect();
                (Vec::from_iter(before), vec![Event::Assigned(all)])
            }
            (Unanswered::Assigned(before), Event::Revoked(gone)) => {
                let (gone, still): (BTreeSet<i32>, Vec<i32>) =
                    (gone.iter().copied().collect(), before.iter().copied().filter(|p| !gone.contains(p)).collect());
                let held: Vec<i32> = gone.difference(&before).copied().collect();
                (Vec::from_iter(before), vec![Event::Revoked(held), Event::Assigned(still)])
            }
            (Unanswered::Assigned(before), Event::Lost(gone)) => {
                let held = gone.into_iter().filter(|partition| !before.contains(partition)).collect();
                (Vec::from_iter(before), vec![Event::Lost(held)])
            }
        };
        for event in next.into_iter().rev() {
            match &event {
                Event::Revoked(none) if none.is_empty() => {
                    if let Err(err) = rebalance::give(&self.consumer, &self.partitions(&[])) {
                        debug!(%err, "revocation of what was never taken not answered");
                    }
                }
                Event::Assigned(none) | Event::Lost(none) if none.is_empty() => {}
                _ => self.to_tell.push_front(event),
            }
        }
        Input::Lost(void)
    }
}

impl Drop for KafkaConsumer {
    /// Leaving waits for librdkafka, which waits for the answer to a rebalance: give it one.
    fn drop(&mut self) {
        self.consumer.context().close();
        let answered = match self.unanswered.take() {
            Some(Unanswered::Assigned(partitions)) => {
                let partitions: Vec<i32> = partitions.into_iter().collect();
                let list = self.partitions(&partitions);
                rebalance::take(&self.consumer, &list)
            }
            Some(Unanswered::Revoked { all, .. }) => rebalance::give(&self.consumer, &self.partitions(&all)),
            None => Ok(()),
        };
        // Events that the caller was not told of yet wait for an answer as well.
        while let Some(event) = self.to_tell.pop_front().or_else(|| self.consumer.context().next_event()) {
            let _ = match event {
                Event::Assigned(partitions) => rebalance::take(&self.consumer, &self.partitions(&partitions)),
                Event::Revoked(partitions) => rebalance::give(&self.consumer, &self.partitions(&partitions)),
                Event::Lost(_) => Ok(()),
            };
        }
        if let Err(err) = answered {
            debug!(%err, "rebalance not answered on leaving");
        }
    }
}
