//! The log of a table as objects in the store, for those who look after it: what is in it, and what it tells of the past.

use super::{Table, TableError, list_failed, millis, now_ms};
use crate::cleanup::LogObject;
use crate::layout;
use crate::staging::{self, Staging};
use crate::state::{Keep, Removal, TableState};
use crate::store::{self, StoreError};
use futures::StreamExt;
use object_store::ObjectStoreExt;
use std::collections::BTreeSet;
use std::time::Duration;

/// Commits are read so many at a time.
const READING: usize = 32;

impl Table {
    /// The version of the checkpoint that `_last_checkpoint` names.
    pub async fn named_checkpoint(&self) -> Result<Option<u64>, TableError> {
        #[derive(serde::Deserialize)]
        struct Named {
            version: u64,
        }
        let named = store::get(self.store.as_ref(), &self.file_path(layout::LAST_CHECKPOINT)).await?;
        // It may be read while it is written over. Readers do without one that is damaged, too.
        Ok(named.and_then(|json| serde_json::from_slice::<Named>(&json).ok()).map(|named| named.version))
    }

    /// Everything in the directory of the log.
    pub async fn list_log(&self) -> Result<Vec<LogObject>, TableError> {
        let log = self.file_path(layout::LOG);
        let mut objects = self.store.list(Some(&log));
        let mut listed = Vec::new();
        while let Some(object) = objects.next().await {
            let object = object.map_err(|source| list_failed(&log, source))?;
            let Some(parts) = object.location.prefix_match(&log) else { continue };
            let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            listed.push(LogObject { name, bytes: object.size, modified_ms: object.last_modified.timestamp_millis() });
        }
        Ok(listed)
    }

    /// Reads a version through its checkpoint, all of it: a checkpoint that cannot be read stands for nothing.
    pub async fn prove_readable(&self, version: u64) -> Result<(), TableError> {
        self.find_files(version, |_| false).await?;
        self.load_version(Some(version), Keep::Txns, &[]).await?;
        Ok(())
    }

    /// Learns from the log which files were removed `within` the last time and when, which a state that was just loaded
    /// does not know.
    pub async fn load_removals(&self, state: &mut TableState, within: Duration) -> Result<(), TableError> {
        let versions = self.versions_within(within).await?;
        let known = versions.into_iter().filter(|(version, _)| *version <= state.version);
        let mut commits = futures::stream::iter(known)
            .map(|(version, at_ms)| async move {
                let removal = Removal { version, at_ms: Some(at_ms) };
                self.read_commit(version).await.map(|actions| (removal, actions))
            })
            .buffer_unordered(READING);
        let mut removals = Vec::new();
        while let Some(commit) = commits.next().await {
            let (removal, actions) = commit?;
            let removes = actions.unwrap_or_default().into_iter().filter_map(|action| action.remove);
            removals.extend(removes.map(|remove| (remove.path, removal)));
        }
        drop(commits);
        removals.into_iter().for_each(|(path, removal)| state.set_removed(&path, removal));
        state.removals_known();
        Ok(())
    }

    /// Asks the store when the files left that were seen to leave.
    pub async fn date_removals(&self, state: &mut TableState) -> Result<(), TableError> {
        let undated = state.removed().values().filter(|removal| removal.at_ms.is_none());
        let versions: BTreeSet<u64> = undated.map(|removal| removal.version).collect();
        let mut times = futures::stream::iter(versions)
            .map(|version| async move { self.committed_at(version).await.map(|at_ms| (version, at_ms)) })
            .buffer_unordered(READING);
        while let Some(time) = times.next().await {
            let (version, at_ms) = time?;
            // The log stays for longer than removed files, so one that was cleaned up was made long ago.
            state.set_removal_time(version, at_ms.unwrap_or_default());
        }
        Ok(())
    }

    async fn committed_at(&self, version: u64) -> Result<Option<i64>, TableError> {
        let path = self.file_path(&layout::commit_path(version));
        match self.store.head(&path).await {
            Ok(object) => Ok(Some(object.last_modified.timestamp_millis())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Object { operation: "read", path: path.to_string(), source }.into()),
        }
    }

    /// Versions committed in the last time and when, by the clock of the store: from the log's latest object backwards, so
    /// that a clock that is fast here leaves none out.
    async fn versions_within(&self, time: Duration) -> Result<Vec<(u64, i64)>, TableError> {
        let objects = self.list_log().await?;
        let newest_ms = objects.iter().map(|object| object.modified_ms).max().unwrap_or_default();
        let since_ms = newest_ms.min(now_ms()).saturating_sub(millis(time));
        let version = |object: &LogObject| Some((object.name.strip_suffix(".json")?.parse().ok()?, object.modified_ms));
        Ok(objects.iter().filter(|object| object.modified_ms >= since_ms).filter_map(version).collect())
    }

    /// What uploads to a local lake left behind that were cut off: see [`crate::staging`].
    pub async fn list_staging(&self) -> Result<Vec<Staging>, TableError> {
        staging::list(&self.url).await.map_err(|source| StoreError::Directory { path: self.url.clone(), source }.into())
    }
}
