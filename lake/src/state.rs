//! What a table is at one version: the sum of its commits. Pure.

use crate::actions::{Action, Metadata, Protocol};
use crate::file::DataFile;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// How much of a table to keep in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Only what appending needs: memory does not grow with the table.
    Txns,
    /// The live files as well, and when files were removed.
    Files,
}

/// How a file left the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// The version that is the first without it.
    pub version: u64,
    /// When that was made by the clock of the store, milliseconds since the epoch; `None` until it is asked. What the
    /// commit says of itself is the time of some process, whose clock may be wrong.
    pub at_ms: Option<i64>,
}

/// A table at one version.
#[derive(Debug, Clone)]
pub struct TableState {
    pub version: u64,
    /// What the table log says of the table as a whole, its columns for one.
    pub metadata: Arc<Metadata>,
    /// When it was last known to be the latest.
    pub(crate) loaded_at: Instant,
    keep: Keep,
    /// Applications that were looked up, also those that had no version then.
    pub(crate) looked_up: Vec<String>,
    txns: HashMap<String, i64>,
    files: BTreeMap<String, Arc<DataFile>>,
    removed: BTreeMap<String, Removal>,
    knows_removals: bool,
}

/// A commit that must not be understood as anything less than a change of the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignCommit {
    #[error(
        "version {version} of the table asks for reader {reader} and writer {writer}, more than this program knows"
    )]
    Protocol { version: u64, reader: i32, writer: i32 },
    #[error("version {version} of the table: {problem}")]
    Action { version: u64, problem: String },
}

impl TableState {
    pub fn new(version: u64, metadata: Metadata, keep: Keep) -> TableState {
        TableState {
            version,
            metadata: Arc::new(metadata),
            loaded_at: Instant::now(),
            keep,
            looked_up: Vec::new(),
            txns: HashMap::new(),
            files: BTreeMap::new(),
            removed: BTreeMap::new(),
            knows_removals: false,
        }
    }

    /// The version of an application: for a partition, the next offset to read.
    pub fn txn(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).copied()
    }

    /// All application versions.
    pub fn txns(&self) -> &HashMap<String, i64> {
        &self.txns
    }

    /// Live files by path; empty unless the state keeps them.
    pub fn files(&self) -> &BTreeMap<String, Arc<DataFile>> {
        &self.files
    }

    /// How files left the table, as far as it was seen.
    pub fn removed(&self) -> &BTreeMap<String, Removal> {
        &self.removed
    }

    /// Whether no file left since the log was asked for it, but for those that are in [`TableState::removed`]. One that is
    /// read anew does not know what happened since it was read before.
    pub fn knows_removals(&self) -> bool {
        self.knows_removals
    }

    pub(crate) fn removals_known(&mut self) {
        self.knows_removals = true;
    }

    pub(crate) fn keep(&self) -> Keep {
        self.keep
    }

    /// Takes the place of an older state; what was seen of removals stays known.
    pub(crate) fn replace(&mut self, fresh: TableState) {
        let removed = std::mem::replace(self, fresh).removed;
        removed.into_iter().for_each(|(path, removal)| self.set_removed(&path, removal));
    }

    pub(crate) fn set_txn(&mut self, app_id: &str, version: i64) {
        self.txns.insert(app_id.to_owned(), version);
    }

    pub(crate) fn set_removed(&mut self, path: &str, removal: Removal) {
        // A file that came back and left again is gone since then.
        let is_later = self.removed.get(path).is_none_or(|known| known.version <= removal.version);
        if self.keep == Keep::Files && !self.files.contains_key(path) && is_later {
            self.removed.insert(path.to_owned(), removal);
        }
    }

    pub(crate) fn set_removal_time(&mut self, version: u64, at_ms: i64) {
        for removal in self.removed.values_mut().filter(|removal| removal.version == version) {
            removal.at_ms = Some(at_ms);
        }
    }

    /// Forgets removals that nobody has to wait for any more: their files are gone.
    pub fn forget_removed(&mut self, paths: &[String]) {
        for path in paths {
            self.removed.remove(path);
        }
    }

    /// Forgets all removals, for somebody who does not want to know them now.
    pub fn forget_all_removed(&mut self) {
        self.removed.clear();
        self.knows_removals = false;
    }

    pub(crate) fn add_file(&mut self, file: DataFile) {
        if self.keep == Keep::Files {
            self.removed.remove(&file.path);
            self.files.insert(file.path.clone(), Arc::new(file));
        }
    }

    /// Applies the commit that makes the next version. On an error the state is as before.
    pub(crate) fn apply(&mut self, actions: &[Action]) -> Result<(), ForeignCommit> {
        let version = self.version + 1;
        let foreign = |problem| ForeignCommit::Action { version, problem };
        let mut adds = Vec::new();
        for action in actions {
            if let Some(Protocol { min_reader_version: reader, min_writer_version: writer }) = action.protocol
                && (reader > 1 || writer > 2)
            {
                return Err(ForeignCommit::Protocol { version, reader, writer });
            }
            if let (Some(add), Keep::Files) = (&action.add, self.keep) {
                adds.push(add.to_file().map_err(foreign)?);
            }
        }
        self.version = version;
        for action in actions {
            if let Some(remove) = &action.remove
                && self.keep == Keep::Files
            {
                self.files.remove(&remove.path);
                self.removed.insert(remove.path.clone(), Removal { version, at_ms: None });
            }
            if let Some(txn) = &action.txn {
                self.set_txn(&txn.app_id, txn.version);
            }
            if let Some(metadata) = &action.meta_data {
                self.metadata = Arc::new(metadata.clone());
            }
        }
        adds.into_iter().for_each(|file| self.add_file(file));
        Ok(())
    }
}
