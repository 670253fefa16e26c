//! What delta_kernel does for us: it finds and reads the log, checkpoints included, and writes checkpoints and version
//! checksums. The only module that names it, for it is 0.x.
//!
//! Commits are not written through it (see `docs/adr/0002-commits-are-written-by-hand.md`). Its calls block: they run on
//! the blocking pool, and its own requests on a runtime of its own, so that no shutdown of ours can cut one off.

use crate::actions::{Add, Metadata};
use crate::file::DataFile;
use crate::state::{Keep, TableState};
use crate::store::{self, Lake};
use crate::table::LEAVE_THE_TABLE_ALONE;
use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::Int64Type;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::scan::StatsOptions;
use delta_kernel::snapshot::IncrementalReplay;
use delta_kernel::{Engine, KernelError, Snapshot, SnapshotRef};
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Reads and checkpoints one table. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Kernel {
    engine: Arc<dyn Engine>,
    url: String,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Never dropped: a runtime must not end inside another.
static EXECUTOR: LazyLock<Arc<TokioMultiThreadExecutor>> = LazyLock::new(|| {
    let executor = TokioMultiThreadExecutor::new_owned_runtime(Some(1), Some(4));
    Arc::new(executor.expect("threads can be started"))
});

impl Kernel {
    pub(crate) fn new(lake: &Lake, table: &str) -> Kernel {
        let engine = DefaultEngineBuilder::new(Arc::clone(lake.store())).with_task_executor(Arc::clone(&EXECUTOR));
        Kernel { engine: Arc::new(engine.build()), url: format!("{}/", lake.table_url(table)) }
    }

    /// The table at `version`, or at its latest.
    pub(crate) async fn load(
        &self,
        version: Option<u64>,
        keep: Keep,
        app_ids: Vec<String>,
    ) -> Result<TableState, KernelError> {
        let kernel = self.clone();
        blocking(move || {
            let snapshot = kernel.snapshot(version)?;
            let mut state = TableState::new(snapshot.version(), read_metadata(&snapshot)?, keep);
            for app_id in app_ids {
                if let Some(version) = snapshot.get_app_id_version(&app_id, kernel.engine.as_ref())? {
                    state.set_txn(&app_id, version);
                }
            }
            if keep == Keep::Files {
                kernel.each_file(&snapshot, |file| state.add_file(file))?;
            }
            Ok(state)
        })
        .await
    }

    /// The live files of `version` that are `wanted`; only those are kept in memory.
    pub(crate) async fn find_files(
        &self,
        version: u64,
        mut wanted: impl FnMut(&DataFile) -> bool + Send + 'static,
    ) -> Result<Vec<DataFile>, KernelError> {
        let kernel = self.clone();
        blocking(move || {
            let snapshot = kernel.snapshot(Some(version))?;
            let mut found = Vec::new();
            kernel.each_file(&snapshot, |file| {
                if wanted(&file) {
                    found.push(file);
                }
            })?;
            Ok(found)
        })
        .await
    }

    /// Writes a checkpoint and a checksum of `version`, so that readers need not read every commit before it.
    pub(crate) async fn checkpoint(&self, version: u64) -> Result<(), KernelError> {
        let kernel = self.clone();
        blocking(move || {
            let snapshot = kernel.snapshot(Some(version))?;
            let (_, snapshot) = snapshot.checkpoint(kernel.engine.as_ref(), None)?;
            snapshot.write_checksum(kernel.engine.as_ref())?;
            Ok(())
        })
        .await
    }

    /// Writes the checksum of `version` alone; with it the application versions are found without reading the log.
    pub(crate) async fn write_checksum(&self, version: u64) -> Result<(), KernelError> {
        let kernel = self.clone();
        blocking(move || {
            kernel.snapshot(Some(version))?.write_checksum(kernel.engine.as_ref())?;
            Ok(())
        })
        .await
    }

    fn snapshot(&self, version: Option<u64>) -> Result<SnapshotRef, KernelError> {
        let mut attempts = 0;
        loop {
            let builder = Snapshot::builder_for(&self.url).with_incremental_crc_replay(IncrementalReplay::Unlimited);
            let builder = match version {
                Some(version) => builder.at_version(version),
                None => builder,
            };
            match builder.build(self.engine.as_ref()) {
                // A directory listing is not atomic: beside fast commits it may miss one between two that it saw.
                Err(err) if attempts < LISTING_RETRIES && is_listing_race(&err) => {
                    attempts += 1;
                    std::thread::sleep(Duration::from_millis(5 * attempts));
                }
                result => return result,
            }
        }
    }

    fn each_file(&self, snapshot: &SnapshotRef, mut each: impl FnMut(DataFile)) -> Result<(), KernelError> {
        let scan = Arc::clone(snapshot).scan_builder().with_stats(StatsOptions::json_only()).build()?;
        for metadata in scan.scan_metadata(self.engine.as_ref())? {
            let (data, selected) = metadata?.scan_files.into_parts();
            let batch = ArrowEngineData::try_from_engine_data(data)?;
            for row in 0..batch.record_batch().num_rows() {
                // Rows beyond the selection vector are selected.
                if selected.get(row).copied().unwrap_or(true) {
                    each(read_file(batch.record_batch(), row).map_err(KernelError::generic)?);
                }
            }
        }
        Ok(())
    }
}

/// Whether reading again may succeed: the log may be listed while others write it, and the store may be away.
pub(crate) fn is_retryable(err: &KernelError) -> bool {
    advice(err).is_none()
}

/// What to do about an error that reading again does not cure.
pub(crate) fn advice(err: &KernelError) -> Option<&'static str> {
    match innermost(err) {
        KernelError::Unsupported(_) | KernelError::InvalidProtocol(_) => Some(LEAVE_THE_TABLE_ALONE),
        KernelError::ObjectStore(err) => store::advice(err),
        _ => None,
    }
}

fn innermost(err: &KernelError) -> &KernelError {
    match err {
        KernelError::Backtraced { source, .. } => innermost(source),
        err => err,
    }
}

const LISTING_RETRIES: u64 = 10;

fn is_listing_race(err: &KernelError) -> bool {
    matches!(err, KernelError::MissingVersion(_)) || err.to_string().contains("contiguous")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(err) => Err(KernelError::generic(err)),
    }
}

/// The action as it stands in the log, so that a new one can say the same but for the columns.
fn read_metadata(snapshot: &Snapshot) -> Result<Metadata, KernelError> {
    let metadata = serde_json::to_value(snapshot.table_configuration().metadata());
    metadata.and_then(serde_json::from_value).map_err(KernelError::generic_err)
}

/// A row of the kernel's scan metadata (its `scan_row_schema`).
fn read_file(batch: &RecordBatch, row: usize) -> Result<DataFile, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column {name}"));
    let number = |name: &str| Ok::<_, String>(column(name)?.as_primitive::<Int64Type>().value(row));
    let text = |name: &str| {
        let column = column(name)?.as_string::<i32>();
        Ok::<_, String>((!column.is_null(row)).then(|| column.value(row).to_owned()))
    };
    let constants = column("fileConstantValues")?.as_struct();
    let add = Add {
        path: text("path")?.unwrap_or_default(),
        partition_values: read_map(constants, "partitionValues", row)?,
        size: number("size")?.unsigned_abs(),
        modification_time: number("modificationTime")?,
        data_change: false,
        stats: text("stats")?,
        tags: Some(read_map(constants, "tags", row)?),
    };
    add.to_file()
}

fn read_map(parent: &StructArray, name: &str, row: usize) -> Result<BTreeMap<String, Option<String>>, String> {
    let map = parent.column_by_name(name).ok_or_else(|| format!("no column {name}"))?.as_map();
    if map.is_null(row) {
        return Ok(BTreeMap::new());
    }
    let entries = map.value(row);
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
    let value = |i: usize| (!values.is_null(i)).then(|| values.value(i).to_owned());
    Ok((0..entries.len()).map(|i| (keys.value(i).to_owned(), value(i))).collect())
}
