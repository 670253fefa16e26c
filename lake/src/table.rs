//! A table: how its versions are read, and the one way in which a new one is made.
//!
//! A commit is an object `_delta_log/<version>.json` that is stored only if nobody has stored it before. Whoever stores
//! version `n + 1` has decided on exactly version `n`, so every check made against version `n` still holds: that is the
//! whole of the fencing (invariants I2, I3, I5). A writer that loses the race reads what the winner did and decides anew;
//! this module never merges two decisions.
//!
//! The outcome of a request may be unknown (a time-out after the store has it). Every commit carries a random id, so
//! [`Table::commit`] looks at what is stored under the version and knows whose it is.

mod log;

use crate::actions::{self, Action, Add, CommitInfo, Format, Metadata, Protocol, Remove, STATS_COLUMNS, Txn};
use crate::evolution::{Conflict, Merged, merge};
use crate::file::DataFile;
use crate::kernel::{self, Kernel};
use crate::layout;
use crate::schema::TableSchema;
use crate::state::{ForeignCommit, Keep, TableState};
use crate::store::{self, Lake, StoreError};
use delta_kernel::KernelError;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Commits between two checkpoints. DuckDB reads every commit since the last one, several times a query.
pub const CHECKPOINT_EVERY: u64 = 100;

/// A state older than this is read anew rather than commit by commit. That the log behind checkpoints is cleaned up has no
/// part in it: see [`Table::is_behind`].
const TRUST_STATE_FOR: Duration = Duration::from_secs(3600);

/// Readers may use files for so long after they left the table.
pub const DELETED_FILE_RETENTION: Duration = Duration::from_secs(6 * 3600);

/// Files that waited longer for their commit are not committed any more: sweeps delete files that are in no table after
/// 24 h, and a commit must never name a file that may be gone.
pub const COMMIT_WITHIN: Duration = Duration::from_secs(12 * 3600);

/// A handle on one table of a lake. Cheap to clone; holds no state of the table.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    store: Arc<dyn ObjectStore>,
    path: Path,
    url: String,
    schema: Arc<TableSchema>,
    kernel: Kernel,
}

/// What a commit does to the table.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Delta's name of the operation, for the table's history.
    pub operation: &'static str,
    /// Facts for the table's history.
    pub parameters: BTreeMap<String, Value>,
    pub adds: Vec<DataFile>,
    pub removes: Vec<DataFile>,
    /// New versions of applications.
    pub txns: Vec<(String, i64)>,
    /// New columns of the table.
    pub metadata: Option<Metadata>,
    /// False if the same rows are only stored otherwise.
    pub data_change: bool,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is the version that the state now has.
    Committed,
    /// Somebody else made that version, or it already lies behind a checkpoint, and then nobody can tell. The state was
    /// refreshed and shows what became of it: decide anew.
    Conflict,
}

/// Why a table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("read the log of table {table}")]
    Read { table: String, source: Box<KernelError> },
    #[error("commit {version} of table {table} cannot be read")]
    Damaged { table: String, version: u64, source: serde_json::Error },
    #[error("the table at {url} cannot be used: {conflict}")]
    Schema { url: String, conflict: Conflict },
    #[error(transparent)]
    Foreign(#[from] ForeignCommit),
}

const RESTORE_THE_LOG: &str =
    "an object of the table's log is damaged: restore it from a backup, or choose another --lake";
pub(crate) const LEAVE_THE_TABLE_ALONE: &str = "another program has changed the table, which only Lakehose may write: use \
     a newer lakehose if it was one, or another --lake";

impl TableError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            TableError::Store(err) => err.is_retryable(),
            TableError::Read { source, .. } => kernel::is_retryable(source),
            TableError::Damaged { .. } | TableError::Schema { .. } | TableError::Foreign(_) => false,
        }
    }

    /// What to do about an error that trying again does not cure, unless the message says it.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            TableError::Store(err) => err.advice(),
            TableError::Read { source, .. } => kernel::advice(source),
            TableError::Damaged { .. } => Some(RESTORE_THE_LOG),
            TableError::Schema { .. } => None,
            TableError::Foreign(_) => Some(LEAVE_THE_TABLE_ALONE),
        }
    }
}

impl Table {
    /// Opens the table with the columns of `schema`, which it is made to have: a table that is not there is made, and
    /// one that is gets what it lacks. Refuses one of another kind. See [`crate::evolution`].
    pub async fn open_or_create(lake: &Lake, name: &str, schema: TableSchema) -> Result<Table, TableError> {
        let table = Table::handle(lake, name, schema);
        if !table.exists().await? {
            table.create().await?;
        }
        let mut state = table.load(Keep::Txns, &[]).await?;
        loop {
            let (merged, change) = table.evolve(&state)?;
            let committed = match change {
                Some(change) => table.commit(&mut state, &change).await? == Outcome::Committed,
                None => true,
            };
            // Somebody else may have changed the columns: what is lacking now is another question.
            if committed {
                return Ok(Table { schema: Arc::new(merged.files), ..table });
            }
        }
    }

    /// Opens an existing table for reading; `None` if there is none.
    pub async fn open(lake: &Lake, name: &str, schema: TableSchema) -> Result<Option<Table>, TableError> {
        let table = Table::handle(lake, name, schema);
        Ok(table.exists().await?.then_some(table))
    }

    fn handle(lake: &Lake, name: &str, schema: TableSchema) -> Table {
        Table {
            name: name.to_owned(),
            store: Arc::clone(lake.store()),
            path: lake.table_path(name),
            url: lake.table_url(name),
            schema: Arc::new(schema),
            kernel: Kernel::new(lake, name),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a reader's `delta_scan` takes.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn schema(&self) -> &TableSchema {
        &self.schema
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What becomes of the table's columns if a program with the columns of this handle writes to it. Changes nothing.
    pub fn merged(&self, state: &TableState) -> Result<Merged, TableError> {
        let existing = self.schema_at(state)?;
        merge(&existing, &self.schema).map_err(|conflict| self.refused(conflict))
    }

    /// The same table with its own columns at a version, those that this handle does not know included.
    pub fn at(&self, state: &TableState) -> Result<Table, TableError> {
        Ok(Table { schema: Arc::new(self.schema_at(state)?), ..self.clone() })
    }

    fn schema_at(&self, state: &TableState) -> Result<TableSchema, TableError> {
        let Metadata { schema_string, configuration, .. } = state.metadata.as_ref();
        let stats = configuration.get(STATS_COLUMNS).map(String::as_str).unwrap_or_default();
        TableSchema::from_delta(schema_string, stats).map_err(|unreadable| self.refused(unreadable.into()))
    }

    fn refused(&self, conflict: Conflict) -> TableError {
        TableError::Schema { url: self.url.clone(), conflict }
    }

    /// The commit that gives the table what it lacks; none if that is nothing.
    fn evolve(&self, state: &TableState) -> Result<(Merged, Option<Change>), TableError> {
        let merged = self.merged(state)?;
        if !merged.changes_table() {
            return Ok((merged, None));
        }
        let mut metadata = Metadata::clone(&state.metadata);
        metadata.schema_string = merged.table.to_delta_after(&metadata.schema_string);
        metadata.configuration.insert(STATS_COLUMNS.to_owned(), merged.table.stats.join(","));
        let parameters = [("columns".to_owned(), merged.describe().into())].into();
        // The kernel goes on with a checksum only over operations that it knows, and this is one of them.
        let change = Change { operation: "WRITE", parameters, metadata: Some(metadata), ..Change::default() };
        Ok((merged, Some(change)))
    }

    /// Path in the store of a file of the table.
    pub fn file_path(&self, path: &str) -> Path {
        path.split('/').filter(|part| !part.is_empty()).fold(self.path.clone(), |whole, part| whole.join(part))
    }

    /// The latest version, with the versions of the given applications.
    pub async fn load(&self, keep: Keep, app_ids: &[String]) -> Result<TableState, TableError> {
        self.load_version(None, keep, app_ids).await
    }

    /// A given version, or the latest.
    pub async fn load_version(
        &self,
        version: Option<u64>,
        keep: Keep,
        app_ids: &[String],
    ) -> Result<TableState, TableError> {
        let state = self.kernel.load(version, keep, app_ids.to_vec()).await;
        let mut state =
            state.map_err(|source| TableError::Read { table: self.name.clone(), source: Box::new(source) })?;
        state.looked_up = app_ids.to_vec();
        Ok(state)
    }

    /// The live files of `version` that are `wanted`, without a state that would hold all of them.
    pub async fn find_files(
        &self,
        version: u64,
        wanted: impl FnMut(&DataFile) -> bool + Send + 'static,
    ) -> Result<Vec<DataFile>, TableError> {
        let found = self.kernel.find_files(version, wanted).await;
        found.map_err(|source| TableError::Read { table: self.name.clone(), source: Box::new(source) })
    }

    /// Brings a state to the latest version.
    pub async fn refresh(&self, state: &mut TableState) -> Result<(), TableError> {
        if state.loaded_at.elapsed() > TRUST_STATE_FOR {
            self.reload(state).await?;
        }
        loop {
            while let Some(actions) = self.read_commit(state.version + 1).await? {
                state.apply(&actions)?;
            }
            if !self.is_behind(state.version).await? {
                break;
            }
            self.reload(state).await?;
        }
        state.loaded_at = std::time::Instant::now();
        Ok(())
    }

    async fn reload(&self, state: &mut TableState) -> Result<(), TableError> {
        // One that had no version when it was looked up may have one now, and "none" must be true: a partition that
        // the table does not know may start anywhere.
        let mut app_ids: BTreeSet<String> = state.txns().keys().cloned().collect();
        app_ids.extend(state.looked_up.iter().cloned());
        let fresh = self.load(state.keep(), &Vec::from_iter(app_ids)).await?;
        state.replace(fresh);
        Ok(())
    }

    /// Whether there are later versions, by what `_last_checkpoint` names.
    ///
    /// A process may sleep for days (a frozen container, a laptop's lid, a virtual machine that is moved), and no clock of
    /// its own need tell: monotonic ones stand still, others are set when they are set. Meanwhile the commits that follow
    /// its version may have been cleaned up, and "there is no next commit" would look like "this is the latest version".
    /// Clean-up removes only what lies below the version that `_last_checkpoint` names, so who asks for the commit first
    /// and then reads the name knows.
    async fn is_behind(&self, version: u64) -> Result<bool, TableError> {
        Ok(self.named_checkpoint().await?.is_some_and(|named| named > version))
    }

    /// Makes the next version, if nobody else has. On [`Outcome::Committed`] the state is that version. An error leaves
    /// the outcome open: refresh and decide anew.
    pub async fn commit(&self, state: &mut TableState, change: &Change) -> Result<Outcome, TableError> {
        if state.loaded_at.elapsed() > TRUST_STATE_FOR {
            self.refresh(state).await?;
            return Ok(Outcome::Conflict);
        }
        let id = Uuid::new_v4().to_string();
        let actions = change.actions(&id, now_ms());
        let version = state.version + 1;
        let path = self.file_path(&layout::commit_path(version));
        let payload = PutPayload::from_bytes(actions::to_lines(&actions));
        let put = self.store.put_opts(&path, payload, PutOptions::from(PutMode::Create));
        let error = match put.await {
            Ok(_) => {
                // Not beside the put: this process may have slept between the two answers.
                if self.is_behind(version).await? {
                    // The place was taken once, and was cleaned up: nobody will ever read what is stored there.
                    self.reload(state).await?;
                    return Ok(Outcome::Conflict);
                }
                state.apply(&actions)?;
                state.loaded_at = std::time::Instant::now();
                return Ok(Outcome::Committed);
            }
            Err(error) => error,
        };
        let taken = matches!(error, object_store::Error::AlreadyExists { .. });
        let committed = match self.read_commit(version).await {
            Ok(Some(found)) => found.iter().any(|a| a.commit_info.as_ref().is_some_and(|info| info.txn_id == id)),
            Ok(None) if !taken => {
                return Err(StoreError::Object { operation: "commit", path: path.to_string(), source: error }.into());
            }
            Ok(None) => false,
            Err(err) => return Err(err),
        };
        self.refresh(state).await?;
        let stands = committed && !self.is_behind(version).await?;
        Ok(if stands { Outcome::Committed } else { Outcome::Conflict })
    }

    /// Writes a checkpoint if the version asks for one. Readers get slower without, but nothing is lost: the caller may
    /// log an error and go on.
    pub async fn checkpoint_if_due(&self, version: u64) -> Result<bool, TableError> {
        if version == 0 || !version.is_multiple_of(CHECKPOINT_EVERY) {
            return Ok(false);
        }
        self.checkpoint(version).await?;
        Ok(true)
    }

    /// Writes a checkpoint of a version.
    pub async fn checkpoint(&self, version: u64) -> Result<(), TableError> {
        let done = self.kernel.checkpoint(version).await;
        done.map_err(|source| TableError::Read { table: self.name.clone(), source: Box::new(source) })
    }

    /// The actions of the commit that made `version`; `None` if there is no such commit.
    pub async fn read_commit(&self, version: u64) -> Result<Option<Vec<Action>>, TableError> {
        let Some(lines) = store::get(self.store.as_ref(), &self.file_path(&layout::commit_path(version))).await? else {
            return Ok(None);
        };
        let actions = actions::from_lines(&lines);
        let damaged = |source| TableError::Damaged { table: self.name.clone(), version, source };
        actions.map(Some).map_err(damaged)
    }

    async fn exists(&self) -> Result<bool, TableError> {
        let log = self.file_path(layout::LOG);
        match self.store.list(Some(&log)).next().await {
            Some(Ok(_)) => Ok(true),
            None | Some(Err(object_store::Error::NotFound { .. })) => Ok(false),
            Some(Err(source)) => Err(list_failed(&log, source).into()),
        }
    }

    /// Writes version 0 by hand, since the kernel refuses the retention properties. Losing a race is fine.
    async fn create(&self) -> Result<(), TableError> {
        let now_ms = now_ms();
        let metadata = Metadata {
            id: Uuid::new_v4().to_string(),
            name: None,
            description: None,
            format: Format { provider: "parquet".into(), options: BTreeMap::new() },
            schema_string: self.schema.to_delta(),
            partition_columns: vec!["date".into()],
            configuration: [
                (STATS_COLUMNS, self.schema.stats.join(",")),
                ("delta.deletedFileRetentionDuration", "interval 6 hours".to_owned()),
                ("delta.logRetentionDuration", "interval 1 day".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            created_time: Some(now_ms),
        };
        let actions = [
            Action::commit_info(commit_info("CREATE TABLE", BTreeMap::new(), &Uuid::new_v4().to_string(), now_ms)),
            // The widest that readers know, and all that this project needs.
            Action::protocol(Protocol { min_reader_version: 1, min_writer_version: 2 }),
            Action::metadata(metadata),
        ];
        let path = self.file_path(&layout::commit_path(0));
        let payload = PutPayload::from_bytes(actions::to_lines(&actions));
        match self.store.put_opts(&path, payload, PutOptions::from(PutMode::Create)).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(source) => {
                return Err(StoreError::Object { operation: "create", path: path.to_string(), source }.into());
            }
        }
        let checksum = self.kernel.write_checksum(0).await;
        checksum.map_err(|source| TableError::Read { table: self.name.clone(), source: Box::new(source) })
    }
}

impl Change {
    fn actions(&self, id: &str, now_ms: i64) -> Vec<Action> {
        let info = commit_info(self.operation, self.parameters.clone(), id, now_ms);
        let txn = |(app_id, version): &(String, i64)| {
            Action::txn(Txn { app_id: app_id.clone(), version: *version, last_updated: Some(now_ms) })
        };
        std::iter::once(Action::commit_info(info))
            .chain(self.metadata.iter().cloned().map(Action::metadata))
            .chain(self.txns.iter().map(txn))
            .chain(self.removes.iter().map(|file| Action::remove(Remove::new(file, now_ms, self.data_change))))
            .chain(self.adds.iter().map(|file| Action::add(Add::new(file, self.data_change))))
            .collect()
    }
}

fn commit_info(operation: &str, parameters: BTreeMap<String, Value>, id: &str, now_ms: i64) -> CommitInfo {
    CommitInfo {
        timestamp: now_ms,
        operation: operation.to_owned(),
        operation_parameters: parameters,
        engine_info: concat!("lakehose/", env!("CARGO_PKG_VERSION")).to_owned(),
        txn_id: id.to_owned(),
    }
}

fn list_failed(path: &Path, source: object_store::Error) -> StoreError {
    StoreError::Object { operation: "list", path: path.to_string(), source }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// A time in milliseconds; one too long to count is for ever.
pub fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
