//! What can be configured, and where a setting comes from.
//!
//! Each source wins over the one before: defaults, `lakehose.toml`, environment variables
//! (`LAKEHOSE_<SECTION>_<FIELD>`), the command line. A mistake in any of them is an error that names the place, the
//! setting and what is allowed there: a setting that is silently ignored is worse than a process that does not start.

mod sections;
mod file;
mod environment;
#[cfg(test)]
mod tests;

pub use sections::{EventLog, Kafka, Memory};

use crate::listen::ListenAddr;
use anyhow::{Context, bail};
use bytesize::ByteSize;
use lake::dataset::{Dataset, DatasetSpec};
use processor::FlushConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every setting. The defaults run on a laptop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the embedded log, and of the tables unless `lake` is given.
    pub data: PathBuf,
    /// Where the tables are.
    pub lake: Option<String>,
    /// Where devices post to.
    pub listen: ListenAddr,
    /// Where probes and metrics are served.
    pub admin: ListenAddr,
    /// The datasets; without any there is one, `events`.
    pub datasets: BTreeMap<String, DatasetSpec>,
    pub auth: ingest::auth::Settings,
    pub limits: ingest::Limits,
    pub ingest: ingest::Http,
    pub tls: ingest::Tls,
    pub spill: ingest::SpillConfig,
    pub flush: FlushConfig,
    pub memory: Memory,
    pub compaction: compactor::Config,
    pub kafka: Kafka,
    pub eventlog: EventLog,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data: PathBuf::from("lakehose-data"),
            lake: None,
            listen: "127.0.0.1:8080".parse().expect("an address"),
            admin: "127.0.0.1:9090".parse().expect("an address"),
            datasets: BTreeMap::new(),
            auth: ingest::auth::Settings::default(),
            limits: ingest::Limits::default(),
            ingest: ingest::Http::default(),
            tls: ingest::Tls::default(),
            spill: ingest::SpillConfig::default(),
            flush: FlushConfig::default(),
            memory: Memory::default(),
            compaction: compactor::Config::default(),
            kafka: Kafka::default(),
            eventlog: EventLog::default(),
        }
    }
}

/// What the command line says; it wins over everything else.
#[derive(Debug, Default)]
pub struct Overrides {
    pub data: Option<PathBuf>,
    pub lake: Option<String>,
    pub listen: Option<ListenAddr>,
    pub admin: Option<ListenAddr>,
    pub brokers: Option<String>,
}

/// File that is read when it exists and no other is named.
const DEFAULT_FILE: &str = "lakehose.toml";

impl Config {
    /// Reads the file (`path`, or `lakehose.toml` if there is one) and the environment, and applies `overrides`.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> anyhow::Result<Config> {
        let path = path.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()));
        let mut settings = match path {
            Some(path) => file::read(path)?,
            None => toml::Table::new(),
        };
        let variables = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        for unknown in environment::apply(&mut settings, variables)? {
            tracing::warn!(variable = unknown, "environment variable is not a setting of lakehose, ignored");
        }
        let mut config: Config = settings.try_into().context("read the configuration")?;
        config.apply(overrides);
        config.check()?;
        Ok(config)
    }

    fn apply(&mut self, overrides: Overrides) {
        let Overrides { data, lake, listen, admin, brokers } = overrides;
        self.data = data.unwrap_or_else(|| std::mem::take(&mut self.data));
        self.lake = lake.or(self.lake.take());
        if let Some(listen) = listen {
            self.listen = listen;
        }
        if let Some(admin) = admin {
            self.admin = admin;
        }
        self.kafka.brokers = brokers.or(self.kafka.brokers.take());
    }

    /// What one setting alone cannot tell.
    fn check(&self) -> anyhow::Result<()> {
        self.datasets()?;
        self.gateway().check().context("[ingest], [limits] and [tls]")?;
        self.check_datasets_of_limits()?;
        self.spill.check().context("[spill]")?;
        if self.spill.max_bytes.is_some() && self.kafka.brokers.is_none() {
            bail!(
                "spill.max_bytes is for events that Kafka does not take, and no brokers are given: the embedded log is on \
                 this machine's disk itself; leave it out, or give [kafka] brokers"
            );
        }
        self.auth.check().context("[auth]")?;
        if self.flush.every.is_zero() {
            bail!("flush.every is 0: give the time after which events must be in the table, such as \"5s\"");
        }
        if !(1..=1_024).contains(&self.flush.threads) {
            bail!("flush.threads must be between 1 and 1024: leave it out for as many as there are cores");
        }
        self.compaction.check().context("[compaction]")
    }

    /// A limit of a dataset that does not exist would limit nothing.
    fn check_datasets_of_limits(&self) -> anyhow::Result<()> {
        let known: Vec<String> = self.datasets()?.into_iter().map(|dataset| dataset.name).collect();
        match self.limits.datasets.keys().find(|name| !known.contains(name)) {
            Some(name) => {
                bail!("limits.datasets.{name}: there is no such dataset, the datasets are {}", known.join(", "))
            }
            None => Ok(()),
        }
    }

    /// What the gateway is told.
    pub fn gateway(&self) -> ingest::Config {
        ingest::Config { http: self.ingest.clone(), limits: self.limits.clone(), tls: self.tls.clone() }
    }

    /// What each processor is told when `processors` share the memory. `drain_to_end`: the gateway stops first.
    pub fn processor(&self, processors: usize, drain_to_end: bool) -> processor::Config {
        let memory = ByteSize(self.memory.processor.as_u64() / processors.max(1) as u64);
        processor::Config { flush: self.flush.clone(), memory, drain_to_end, ..processor::Config::default() }
    }

    /// The datasets, checked; without a `[datasets]` section `events` alone.
    pub fn datasets(&self) -> anyhow::Result<Vec<Dataset>> {
        if self.datasets.is_empty() {
            return Ok(vec![Dataset::new("events", DatasetSpec::default())?]);
        }
        self.datasets.iter().map(|(name, spec)| Ok(Dataset::new(name, spec.clone())?)).collect()
    }

    /// Where the tables are: a URL, or a directory.
    pub fn lake_location(&self) -> String {
        self.lake.clone().unwrap_or_else(|| self.data.join("lake").display().to_string())
    }

    /// Directory of the gateway's queue on disk.
    pub fn spill_directory(&self) -> PathBuf {
        self.spill.directory.clone().unwrap_or_else(|| self.data.join("spill"))
    }

    /// Directory of the embedded log.
    pub fn log_directory(&self) -> PathBuf {
        self.data.join("log")
    }
}
