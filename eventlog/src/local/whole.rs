//! All of an append or none, in the local log.
//!
//! What one call appends is part of one group: one batch of the store, which a crash leaves whole or not at all, and
//! whose partitions are published together. So nothing is needed but to keep out a call of which one record cannot be
//! stored. It costs nothing more than any other append.

use super::writer::Command;
use super::{Shared, append_all, fits};
use crate::record::Append;
use crate::{AppendError, Position, WholeError};
use tokio::sync::mpsc::UnboundedSender;

pub(super) async fn append<R: Append>(
    shared: &Shared,
    commands: &UnboundedSender<Command>,
    topic: &str,
    records: Vec<R>,
) -> Result<Vec<Position>, WholeError> {
    let limit = shared.options.max_record_bytes;
    if let Some(record) = records.iter().find(|record| !fits(*record, limit)) {
        return Err(AppendError::TooLarge { bytes: record.size(), limit }.into());
    }
    let fates = append_all(shared, commands, topic, records).await;
    let whole: Result<Vec<Position>, AppendError> = fates.into_iter().collect();
    whole.map_err(|err| match err {
        AppendError::Unknown(_) => WholeError::Unknown { reason: err.to_string() },
        err => err.into(),
    })
}
