//! `lakehose bench compact`: the compactor over one table of fragments, next to DuckDB and deltalake over the same files,
//! each in a process of its own, and next to a bare decode, sort and encode of the same rows.

use super::args;
use super::compaction::{self, Took};
use super::figures::Figures;
use super::fragments::{self, Shape};
use super::made;
use super::peers::{ask, copy_table};
use super::scratch::Scratch;
use super::unmerged;
use crate::config::Config;
use crate::tables;
use anyhow::{Context, ensure};
use bytesize::ByteSize;
use lake::dataset::DatasetSpec;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// With which part of the memory lakehose is run, and under which name its figures stand.
const OURS: [(&str, u64); 2] = [("lakehose", 1), ("lakehose, an eighth of the memory", 8)];

/// What `--peers` is asked for, and under which name its figures stand.
const PEERS: [(&str, &[&str]); 4] = [
    ("DuckDB", &["duckdb"]),
    ("DuckDB, memory_limit 512MB", &["duckdb", "--memory", "512MB"]),
    ("deltalake", &["deltalake"]),
    ("deltalake, sorted", &["deltalake", "--sorted"]),
];

/// Makes a table of fragments, compacts copies of it, and prints what that took.
pub async fn run(args: &args::Compact, config: &Config, as_json: bool) -> anyhow::Result<()> {
    // On this machine, whatever is configured: the others are given a directory.
    let config = Config { lake: None, kafka: Default::default(), ..config.clone() };
    let columns = if args.columns { made::columns() } else { Vec::new() };
    let declared = columns.len();
    let spec = DatasetSpec { columns, ..DatasetSpec::default() };
    let scratch = Scratch::new(&config, args.place.directory.as_deref(), spec)?;
    let (config, dataset) = (&scratch.config, &scratch.dataset);
    let memory = args.memory.unwrap_or(config.memory.compactor);
    let shape = Shape { fragments: args.fragments, rows: args.rows.div_ceil(args.fragments), days: 1 };
    let mut figures = Figures::new(format!(
        "compact, {} rows in {} fragments, {declared} columns declared, memory {memory}, median of {} runs",
        shape.rows(),
        shape.fragments,
        args.runs,
    ));

    let files = fragments::make(&tables::open_lake(config).await?, dataset, shape).await?;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let table = config.data.join("lake").join(&dataset.name);
    let of_bare = (dataset.clone(), table.clone());
    let bare = tokio::task::spawn_blocking(move || unmerged::run(&of_bare.0, &of_bare.1, &files)).await??;
    figures.add_cost("bare: decode", bare.decode, bare.rows);
    figures.add_cost("bare: sort", bare.sort, bare.rows);
    figures.add_cost("bare: encode", bare.encode, bare.rows);
    figures.add_cost("bare: total", bare.total(), bare.rows);
    figures.add("fragments: size", bytes as f64 / shape.rows() as f64, "bytes/event");

    let ours = OURS.map(|(name, part)| Contender::new(name, Program::Lakehose(ByteSize(memory.as_u64() / part))));
    let mut contenders = Vec::from(ours);
    match &args.peers {
        Some(program) => {
            let peer = |(name, words)| Contender::new(name, Program::Peer(program, words));
            contenders.extend(PEERS.map(peer));
        }
        None => figures.note("DuckDB and deltalake were not measured (from a clone: --peers infra/bench/peers)"),
    }
    for _ in 0..args.runs {
        for contender in &mut contenders {
            let copies = config.data.join("copies");
            copy_table(&table, &copies.join(&dataset.name)).context("copy the table")?;
            contender
                .run(&copies, &dataset.name, shape.rows())
                .await
                .with_context(|| format!("run {}", contender.name))?;
            std::fs::remove_dir_all(&copies).context("remove the copy of the table")?;
        }
    }
    for contender in contenders {
        contender.report(&mut figures, shape.rows(), bytes);
    }
    figures.print(as_json);
    Ok(())
}

/// One that compacts, and what it took in each run.
struct Contender<'a> {
    name: &'static str,
    program: Program<'a>,
    runs: Vec<Took>,
    failed: Option<String>,
}

enum Program<'a> {
    /// With so much memory.
    Lakehose(ByteSize),
    /// The program that runs them, and what is said to it.
    Peer(&'a Path, &'static [&'static str]),
}

/// What a peer answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Took(Took),
    Failed { failed: String },
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, program: Program<'a>) -> Contender<'a> {
        Contender { name, program, runs: Vec::new(), failed: None }
    }

    async fn run(&mut self, lake: &Path, dataset: &str, rows: u64) -> anyhow::Result<()> {
        let answer = match self.program {
            Program::Lakehose(memory) => Answer::Took(compaction::start(lake, dataset, memory).await?),
            Program::Peer(program, words) => ask(Command::new(program).args(words).arg(lake.join(dataset))).await?,
        };
        match answer {
            Answer::Took(took) => {
                ensure!(took.rows == rows, "{} rows are left of {rows}", took.rows);
                self.runs.push(took);
            }
            Answer::Failed { failed } => self.failed = Some(failed),
        }
        Ok(())
    }

    fn report(mut self, figures: &mut Figures, rows: u64, bytes: u64) {
        let name = self.name;
        if let Some(failed) = self.failed {
            figures.note(format!("{name} failed: {failed}"));
        }
        self.runs.sort_by(|a, b| a.cpu_seconds.total_cmp(&b.cpu_seconds));
        let Some(took) = self.runs.get(self.runs.len() / 2) else { return };
        figures.add_cost(format!("{name}: CPU"), Duration::from_secs_f64(took.cpu_seconds), rows);
        let (rows, megabyte) = (rows as f64, 1e6);
        figures.add(format!("{name}: rows"), rows / took.cpu_seconds, "rows/s per core");
        figures.add(format!("{name}: bytes"), bytes as f64 / megabyte / took.cpu_seconds, "MB/s per core");
        figures.add(format!("{name}: by the clock"), rows / took.wall_seconds, "rows/s");
        figures.add(format!("{name}: memory at most"), took.memory_peak as f64 / megabyte, "MB");
        figures.add(format!("{name}: memory at its start"), took.memory_before as f64 / megabyte, "MB");
        figures.add(format!("{name}: files"), took.files as f64, "");
        figures.add(format!("{name}: size"), took.bytes as f64 / rows, "bytes/event");
    }
}
