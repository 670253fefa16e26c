//! Where a measurement keeps its log and its table: a directory of its own, removed when it ends.

use crate::config::Config;
use anyhow::Context;
use lake::dataset::{Dataset, DatasetSpec};
use std::path::Path;
use tempfile::TempDir;
use uuid::Uuid;

/// A configuration like the given one, with a dataset that nobody else has.
#[derive(Debug)]
pub struct Scratch {
    pub config: Config,
    pub dataset: Dataset,
    /// Which log it is, in words.
    pub log: String,
    _directory: TempDir,
}

impl Scratch {
    /// `parent` is where the directory is made, by default where temporary files are.
    pub fn new(config: &Config, parent: Option<&Path>, spec: DatasetSpec) -> anyhow::Result<Scratch> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let directory = tempfile::Builder::new().prefix("lakehose-bench-").tempdir_in(&parent);
        let directory =
            directory.with_context(|| format!("cannot write to {} (choose another with --in)", parent.display()))?;
        let log = match &config.kafka.brokers {
            Some(_) => crate::log::place(config).to_string(),
            None => "embedded log".into(),
        };
        // A topic of Kafka, and a table in a bucket, outlive the run, so no two runs may share one.
        let dataset = Dataset::new(format!("bench-{}", Uuid::new_v4().simple()), spec)?;
        let mut config = Config { data: directory.path().to_owned(), ..config.clone() };
        // That of a gateway would shut the gateway out.
        config.kafka.transactional_id = None;
        Ok(Scratch { config, dataset, log, _directory: directory })
    }
}
