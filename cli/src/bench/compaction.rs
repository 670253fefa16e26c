//! What `bench compact` and `bench queries` measure: the compactor as it runs anywhere, until there is nothing to merge.
//!
//! In a process of its own, started by [`start`], so that its memory and its CPU time hold nothing else. It tells them on
//! stdout as [`Took`], and so do the programs that it is compared with.

use super::args;
use super::figures::process_cpu;
use super::memory;
use super::peers::ask;
use crate::config::Config;
use crate::tables;
use anyhow::{Context, ensure};
use bytesize::ByteSize;
use lake::DataFile;
use lake::dataset::{Dataset, DatasetSpec};
use lake::state::Keep;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// What a compaction took, and what is in the table then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Took {
    pub cpu_seconds: f64,
    pub wall_seconds: f64,
    /// Resident bytes of the process before it began.
    pub memory_before: u64,
    /// The most resident bytes.
    pub memory_peak: u64,
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Compacts the table of a dataset in a process of its own.
pub async fn start(lake: &Path, dataset: &str, memory: ByteSize) -> anyhow::Result<Took> {
    let mut command = Command::new(std::env::current_exe().context("find the program itself")?);
    command.args(["bench", "compaction", dataset, "--memory", &memory.as_u64().to_string(), "--log", "warn"]);
    command.arg("--lake").arg(lake);
    ask(&mut command).await
}

/// Merges everything as if nobody wrote to it any more, and prints what that took.
pub async fn run(args: &args::Compaction, config: &Config) -> anyhow::Result<()> {
    let dataset = Dataset::new(&args.dataset, DatasetSpec::default())?;
    let lake = tables::open_lake(config).await?;
    let table = tables::open_table(config, &lake, &args.dataset).await?;
    // One merge after the other, with all the memory: what one core does is to be known.
    let eager = compactor::Config { cold_after: Duration::ZERO, jobs: Some(1), ..config.compaction.clone() };
    let deps = compactor::Deps { lake, datasets: vec![dataset], memory: args.memory };
    let (memory_before, cpu, began) = (memory::now(), process_cpu(), Instant::now());
    for mut worker in compactor::workers(&eager, &deps) {
        loop {
            let turn = worker.turn(&CancellationToken::new()).await.context("compact")?;
            ensure!(turn.failed == 0, "a merge failed");
            if turn.merges == 0 {
                break;
            }
        }
    }
    let (cpu, wall, memory_peak) = (process_cpu() - cpu, began.elapsed(), memory::peak());
    let state = table.load(Keep::Files, &[]).await.context("read the table")?;
    let files: Vec<&DataFile> = state.files().values().map(AsRef::as_ref).collect();
    let took = Took {
        cpu_seconds: cpu.as_secs_f64(),
        wall_seconds: wall.as_secs_f64(),
        memory_before,
        memory_peak,
        files: files.len() as u64,
        rows: files.iter().map(|file| file.rows()).sum(),
        bytes: files.iter().map(|file| file.size).sum(),
    };
    println!("{}", serde_json::to_string(&took)?);
    Ok(())
}
