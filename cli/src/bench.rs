//! `lakehose bench`: how fast it is here, measured in CPU time so that a busy machine changes the figures little.
//!
//! [`replay`] posts a file of events to a running gateway. The others bring all they need, in a directory of their own
//! that is removed afterwards, and leave nothing behind but figures; [`figures`] is how these are shown.

pub mod args;
mod figures;
mod made;
mod client;
mod replay;
mod scratch;
mod filled;
mod bare;
mod processor;
mod encode;
mod append;
mod post;
mod fleet;
mod served;
mod gateway;
mod ingest;
mod visible;
mod memory;
mod fragments;
mod unmerged;
mod peers;
mod compaction;
mod compact;
mod queries;

use crate::config::Config;
use anyhow::bail;
use args::{Bench, What};

/// Measures what is asked for, and prints it.
pub async fn run(args: &Bench, config: &Config) -> anyhow::Result<()> {
    match (&args.what, &args.replay.file) {
        (Some(What::Processor(of)), _) => processor::run(of, config, args.json).await,
        (Some(What::Encode(of)), _) => encode::run(of, args.json).await,
        (Some(What::Log(of)), _) => append::run(of, config, args.json).await,
        (Some(What::Gateway(of)), _) => gateway::run(of, config, args.json).await,
        (Some(What::Ingest(of)), _) => ingest::run(of, config, args.json).await,
        (Some(What::Visible(of)), _) => visible::run(of, config, args.json).await,
        (Some(What::Compact(of)), _) => compact::run(of, config, args.json).await,
        (Some(What::Queries(of)), _) => queries::run(of, config, args.json).await,
        (Some(What::Compaction(of)), _) => compaction::run(of, config).await,
        (None, Some(file)) => replay::run(file, &args.replay, args.json).await,
        (None, None) => {
            bail!("nothing to measure: give --replay FILE, or what to measure (see `lakehose bench --help`)")
        }
    }
}
