//! `lakehose dead`: the records of a dataset that are no events. What they are, and a way back into the topic.
//!
//! Read in the order of the `mod` lines: what the user may say, which letters are meant, how they are read, what was
//! replayed before; the commands that look; then the one that writes. Replaying is exactly once:
//! `docs/adr/0006-replay-of-dead-letters.md` tells how.

pub mod args;
mod filter;
mod times;
mod letter;
mod read;
mod replayed;
mod ls;
mod show;
mod ndjson;
mod export;
mod corrections;
mod batch;
mod marks;
mod topic;
mod replay;

use crate::config::Config;
use crate::tables;
use anyhow::{Context, bail};
use args::{Dead, What};
use lake::dataset::{dead_replays_table, dead_table};
use lake::{Keep, Lake, Table, TableState, schema};

pub async fn run(args: &Dead, config: &Config) -> anyhow::Result<()> {
    let dataset = args.what.dataset();
    // Where there are dead letters, there is a lake.
    let lake = tables::open_existing_lake(config).await?;
    let Some(dead) = Version::of(&lake, &dead_table(dataset), schema::dead()).await? else {
        require_known(config, dataset)?;
        println!("no dead letters");
        return Ok(());
    };
    match &args.what {
        What::Ls(args) => ls::run(args, &lake, &dead).await,
        What::Show(args) => show::run(args, &lake, &dead).await,
        What::Export(args) => export::run(args, &lake, &dead).await,
        What::Replay(args) => replay::run(args, config, &lake, &dead).await,
    }
}

/// A table as it is now.
struct Version {
    table: Table,
    state: TableState,
}

impl Version {
    /// Its latest version; `None` if there is no such table.
    async fn of(lake: &Lake, name: &str, schema: schema::TableSchema) -> anyhow::Result<Option<Version>> {
        let opened = Table::open(lake, name, schema).await.with_context(|| format!("cannot open the table {name}"))?;
        let Some(table) = opened else { return Ok(None) };
        let state = table.load(Keep::Files, &[]).await.with_context(|| format!("cannot read {name}"))?;
        Ok(Some(Version { table, state }))
    }

    /// What was replayed of a dataset; `None` if nothing ever was.
    async fn of_replays(lake: &Lake, dataset: &str) -> anyhow::Result<Option<Version>> {
        Version::of(lake, &dead_replays_table(dataset), schema::dead_replays()).await
    }
}

/// A dataset without dead letters is one of the configuration; anything else is a slip of the keyboard.
fn require_known(config: &Config, dataset: &str) -> anyhow::Result<()> {
    let known = config.datasets()?;
    if !known.iter().any(|known| known.name == dataset) {
        bail!(tables::no_dataset(dataset, &known));
    }
    Ok(())
}
