//! Partitions are given back: in order, when the group asks for them, or without a word, when it took them away.
//!
//! A revoked partition is released once its last rows are committed, so that its next owner need not read them again.
//! The group waits for that, but not for ever: after `release_within` the partition goes all the same, and whose
//! rows are taken is for the table to decide (invariant I3 in `lake`).

use super::{State, Worker};
use anyhow::Context;
use std::time::Instant;
use tokio::runtime::Handle;
use tracing::{info, warn};

#[derive(Debug)]
pub(super) struct Release {
    partitions: Vec<i32>,
    until: Instant,
}

impl Worker {
    pub(super) fn begin_release(&mut self, runtime: &Handle, partitions: Vec<i32>) -> anyhow::Result<()> {
        info!(?partitions, "partitions revoked");
        self.join_no_more(&partitions);
        let owned: Vec<i32> = partitions.iter().copied().filter(|p| self.partitions.contains_key(p)).collect();
        self.consumer.pause(&owned).context("pause revoked partitions")?;
        self.flush(runtime, |partition| owned.contains(&partition));
        for partition in &owned {
            if let Some(owned) = self.partitions.get_mut(partition) {
                owned.state = State::Releasing;
            }
        }
        self.releases.push(Release { partitions, until: Instant::now() + self.config.release_within });
        Ok(())
    }

    pub(super) fn release_partitions(&mut self) -> anyhow::Result<()> {
        for release in std::mem::take(&mut self.releases) {
            let busy = self.in_flight.values().any(|f| f.partitions.iter().any(|p| release.partitions.contains(p)));
            if busy && Instant::now() < release.until {
                self.releases.push(release);
                continue;
            }
            if busy {
                warn!(partitions = ?release.partitions, "partitions given up before their last rows were committed");
            }
            self.forget(&release.partitions);
            self.consumer.release(&release.partitions).context("release partitions")?;
        }
        Ok(())
    }

    pub(super) fn lose(&mut self, partitions: &[i32]) {
        warn!(?partitions, "partitions lost; what was buffered is read again by their next owner");
        self.forget(partitions);
        self.releases.retain(|release| !release.partitions.iter().any(|p| partitions.contains(p)));
    }

    fn forget(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
        self.join_no_more(partitions);
        self.share_window_memory();
    }

    fn join_no_more(&mut self, partitions: &[i32]) {
        self.joining.retain(|partition| !partitions.contains(partition));
        if self.joining.is_empty() {
            self.joined = None;
        }
    }
}
