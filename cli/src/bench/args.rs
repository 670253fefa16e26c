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
    /// The settings of Parquet, each changed by itself: time to encode, time to read back, size
    Encode(Encode),
    /// The log: durable appends, their latency at a steady rate, reading
    Log(Log),
    /// The gateway over loopback: over a log that costs nothing, and over the embedded one
    Gateway(Gateway),
    /// From the answer to a request until the event is in the table, for as long as it runs
    Visible(Visible),
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
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct Encode {
    /// How many events
    #[arg(long, value_name = "N", default_value = "500000", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub events: u64,
}

#[derive(Debug, clap::Args)]
pub struct Log {
    /// How long each step takes
    #[arg(long, value_name = "N", default_value = "6", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct Gateway {
    /// How long each step takes
    #[arg(long, value_name = "N", default_value = "6", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Visible {
    /// How long events are posted
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// Where a directory is made for the log and the table, and removed afterwards [default: that of temporary files]
    #[arg(long = "in", value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

impl Bench {
    /// The brokers, where a measurement may be given any.
    pub fn kafka(&self) -> Option<&Kafka> {
        match &self.what {
            Some(What::Processor(processor)) => Some(&processor.kafka),
            Some(What::Log(log)) => Some(&log.kafka),
            _ => None,
        }
    }
}
