//! What can be said to `lakehose bench`.

use crate::args::Kafka;
use bytesize::ByteSize;
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

impl Bench {
    /// Whether this is the process whose memory is measured.
    pub fn only_merges(&self) -> bool {
        matches!(self.what, Some(What::Compaction(_)))
    }
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
    /// Thousands of simulated devices: how long each waits for its answer, at shares of the most that the gateway takes
    Ingest(Ingest),
    /// From the answer to a request until the event is in the table, for as long as it runs
    Visible(Visible),
    /// The compactor over one table of fragments, next to DuckDB and deltalake over the same files
    Compact(Compact),
    /// DuckDB's queries before and after compaction
    Queries(Queries),
    /// The part of `compact` and `queries` that has a process of its own, so that its memory is its own
    #[command(hide = true)]
    Compaction(Compaction),
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

#[derive(Debug, Clone, clap::Args)]
pub struct Ingest {
    /// Where to post, such as http://127.0.0.1:8080/v1/events/events [default: a gateway that is started for this]
    #[arg(long, value_name = "URL")]
    pub to: Option<Url>,
    /// The key to show there
    #[arg(long, value_name = "KEY", env = "LAKEHOSE_BENCH_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Devices that post, each on a connection of its own
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub devices: u32,
    /// Connections that are open, those of the devices among them
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Events of one request
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// How long each step takes
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Percent of the most that the gateway takes, one step for each
    #[arg(long, value_name = "N", default_values = ["25", "50", "75", "100"], value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=500))]
    pub loads: Vec<u32>,
    /// Write a page with plots to this file, and its figures as .json beside it
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub kafka: Kafka,
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
pub struct Compact {
    /// How many files the rows lie in
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(2..=100_000))]
    pub fragments: u64,
    /// How many rows, rounded up to as many in every file; so many of so many files are one merge
    #[arg(long, value_name = "N", default_value = "1500000", value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Declare four columns, instead of leaving all members in `data`
    #[arg(long)]
    pub columns: bool,
    /// Memory of the compactor [default: that of the configuration]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Each is run so often, one after the other, and the median is told
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// What runs DuckDB and deltalake: `infra/bench/peers` of a clone [default: they are not measured]
    #[arg(long, value_name = "PROGRAM")]
    pub peers: Option<PathBuf>,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Queries {
    /// How many files a table is made of, for each table
    #[arg(long, value_name = "N", default_values = ["1000", "10000"], value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(10..=100_000))]
    pub fragments: Vec<u64>,
    /// Rows of a file
    #[arg(long, value_name = "N", default_value = "500", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rows: u64,
    /// What asks DuckDB: `infra/bench/peers` of a clone
    #[arg(long, value_name = "PROGRAM")]
    pub peers: PathBuf,
    #[command(flatten)]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Compaction {
    /// The table
    pub dataset: String,
    /// Memory of the compactor
    #[arg(long)]
    pub memory: ByteSize,
}

#[derive(Debug, Clone, clap::Args)]
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
            Some(What::Ingest(ingest)) => Some(&ingest.kafka),
            _ => None,
        }
    }
}
