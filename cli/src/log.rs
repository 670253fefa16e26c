//! Opens the log that the configuration names: Kafka if it has brokers, else the one on this machine.

use crate::config::Config;
use crate::failure::in_one_line;
use anyhow::{Context, bail};
use eventlog::Log;
use eventlog::kafka::{KafkaLog, KafkaOptions};
use eventlog::local::{LocalLog, LocalOptions};
use lake::dataset::Dataset;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// Which log is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Kafka { brokers: String },
    ThisMachine { directory: PathBuf },
}

/// Where the log of this configuration is.
pub fn place(config: &Config) -> Place {
    match &config.kafka.brokers {
        Some(brokers) => Place::Kafka { brokers: brokers.clone() },
        None => Place::ThisMachine { directory: config.log_directory() },
    }
}

/// A log that processes on several machines can share.
pub fn require_shared(config: &Config, role: &str) -> anyhow::Result<()> {
    if config.kafka.brokers.is_none() {
        bail!(
            "`lakehose {role}` needs Kafka between the roles: give --brokers host:9092 (or [kafka] brokers), \
             or run everything in one process with `lakehose up`"
        );
    }
    Ok(())
}

/// What Kafka's client may fetch ahead of each processor: little beside the memory that they share.
fn fetched_ahead(config: &Config, datasets: &[Dataset]) -> usize {
    const LEAST: u64 = 2 * 1024 * 1024;
    let most = KafkaOptions::default().consumer_queue_bytes;
    let share = config.memory.processor.as_u64() / 8 / datasets.len().max(1) as u64;
    most.min(share.max(LEAST) as usize)
}

/// Opens it, and makes the topics that it lacks.
pub async fn open(config: &Config, datasets: &[Dataset]) -> anyhow::Result<Arc<dyn Log>> {
    let log = connect(config, datasets, false).await?;
    make_topics(&log, datasets).await?;
    Ok(log)
}

/// The same for a gateway that can do without the log for a while: topics are made once a broker answers.
pub async fn open_later(config: &Config, datasets: &[Dataset]) -> anyhow::Result<Arc<dyn Log>> {
    let log = connect(config, datasets, true).await?;
    if log.health().is_ok() {
        make_topics(&log, datasets).await?;
        return Ok(log);
    }
    let (weak, datasets) = (Arc::downgrade(&log), datasets.to_vec());
    tokio::spawn(async move {
        while let Some(log) = weak.upgrade() {
            if log.health().is_ok() {
                match make_topics(&log, &datasets).await {
                    Ok(()) => return,
                    Err(err) => warn!(error = in_one_line(&err), "cannot make the topics yet"),
                }
            }
            drop(log);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    });
    Ok(log)
}

/// How often a log that is down is asked for its topics.
const ASK_AGAIN: Duration = Duration::from_secs(1);

async fn connect(config: &Config, datasets: &[Dataset], may_be_down: bool) -> anyhow::Result<Arc<dyn Log>> {
    let place = place(config);
    let log: Arc<dyn Log> = match &place {
        Place::Kafka { brokers } => {
            let options = KafkaOptions {
                brokers: brokers.clone(),
                options: config.kafka.options.clone(),
                group_instance_id: config.kafka.group_instance_id.clone(),
                transactional_id: config.kafka.transactional_id.clone(),
                consumer_queue_bytes: fetched_ahead(config, datasets),
                may_be_down,
                ..KafkaOptions::default()
            };
            let log = KafkaLog::connect(options).await;
            Arc::new(log.context("cannot use Kafka (check --brokers, and [kafka] options for TLS and SASL)")?)
        }
        Place::ThisMachine { directory } => {
            let options = LocalOptions {
                retain_age: Some(config.eventlog.retain_age),
                retain_bytes: Some(config.eventlog.retain_bytes.as_u64()),
                disk_budget: config.eventlog.disk_budget.as_u64(),
                ..LocalOptions::default()
            };
            let directory = directory.clone();
            let log = tokio::task::spawn_blocking(move || LocalLog::open(directory, options)).await?;
            Arc::new(log.context("cannot use the embedded log (choose another directory with --data)")?)
        }
    };
    Ok(log)
}

async fn make_topics(log: &Arc<dyn Log>, datasets: &[Dataset]) -> anyhow::Result<()> {
    for dataset in datasets {
        let declared = dataset.spec.partitions;
        let found = log.ensure_topic(&dataset.name, declared).await;
        let found = found.with_context(|| format!("cannot use the topic {}", dataset.name))?;
        if found != declared {
            warn!(dataset = dataset.name, declared, found, "topic has another number of partitions than declared");
        }
    }
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Kafka { brokers } => write!(f, "Kafka at {brokers}"),
            Place::ThisMachine { directory } => write!(f, "embedded log in {}", directory.display()),
        }
    }
}
