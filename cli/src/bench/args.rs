//! What can be said to `lakehose bench`.

use crate::args::Kafka;
use clap::Subcommand;
use std::path::PathBuf;
use url::Url;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    pub what: Option<What>,
    #[command(flatten)]
    pub replay: Replay,
    /// One JSON object instead of a table
    #[arg(long, global = true)]
    pub json: bool,
}

/// What is measured without anything else running.
#[derive(Debug, Subcommand)]
pub enum What {
    /// The processor from the log to committed files, next to a bare decode, sort and encode of the same events
    Processor(Processor),
}

#[derive(Debug, clap::Args)]
pub struct Replay {
    /// Post the events of this file, one JSON object a line, to a running gateway; `-` reads standard input
    #[arg(long = "replay", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where to post them
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080/v1/events/events")]
    pub to: Url,
    /// Events of one request
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Events a second at most [default: as many as the gateway takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub struct Processor {
    /// How many events
    #[arg(long, value_name = "N", default_value = "2000000", value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Declare four columns, instead of leaving all members in `data`
    #[arg(long)]
    pub columns: bool,
    /// Directory for the log and the table, removed afterwards [default: that for temporary files]
    #[arg(long = "in", value_name = "DIR")]
    pub directory: Option<PathBuf>,
    #[command(flatten)]
    pub kafka: Kafka,
}
