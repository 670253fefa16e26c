//! What can be said to `lakehose dead`.

use super::filter::{Filter, Offsets, Replays};
use super::times;
use crate::args::Kafka;
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, clap::Args)]
pub struct Dead {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Subcommand)]
pub enum What {
    /// List dead letters, one a line, the newest last
    Ls(Ls),
    /// Show all there is of one dead letter
    Show(Show),
    /// Write dead letters to a file, to the byte
    Export(Export),
    /// Append dead letters to the topic again, each exactly once, as they were or corrected
    Replay(Replay),
}

#[derive(Debug, clap::Args)]
pub struct Ls {
    /// The dataset whose dead letters are meant
    pub dataset: String,
    #[command(flatten)]
    pub chosen: Chosen,
    /// How many there are of each day and reason, instead of each of them
    #[arg(long)]
    pub summary: bool,
    /// One JSON object a line, instead of columns
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Show {
    /// The dataset whose dead letter is meant
    pub dataset: String,
    /// Its place in the topic
    #[arg(value_name = "PARTITION/OFFSET")]
    pub place: Place,
}

#[derive(Debug, clap::Args)]
pub struct Export {
    /// The dataset whose dead letters are meant
    pub dataset: String,
    #[command(flatten)]
    pub chosen: Chosen,
    /// How they are written
    #[arg(long, value_enum, default_value = "ndjson")]
    pub format: Format,
    /// Where they are written [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Replay {
    /// The dataset whose dead letters are meant
    pub dataset: String,
    #[command(flatten)]
    pub chosen: Chosen,
    /// Replay the records of this file: lines of an export, with payload, key or headers corrected
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Say what would be replayed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What became of a batch that was begun, when the log is too short to tell
    #[arg(long, value_enum, value_name = "FATE")]
    pub open_batch_is: Option<Fate>,
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Ndjson,
    Csv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fate {
    /// Its records are in the topic
    Sent,
    /// They are not, and may be replayed
    Unsent,
}

/// Which dead letters are meant; without any option all of them.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which dead letters")]
pub struct Chosen {
    /// Those with this reason; may be repeated
    #[arg(long = "reason", value_name = "REASON")]
    pub reasons: Vec<String>,
    /// Those received at this time or later: RFC 3339, a date, or how long ago as `2h`
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    pub since: Option<i64>,
    /// Those received before this time
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    pub until: Option<i64>,
    /// Those of this partition; may be repeated
    #[arg(long = "partition", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partitions: Vec<i32>,
    /// Those at this offset, or from A up to and without B
    #[arg(long = "offset", value_name = "A[..B]")]
    pub offsets: Option<Offsets>,
    /// At most so many, the oldest of them
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Those that were not replayed
    #[arg(long, conflicts_with = "replayed")]
    pub pending: bool,
    /// Those that were replayed
    #[arg(long)]
    pub replayed: bool,
}

impl Chosen {
    pub fn filter(&self) -> Filter {
        Filter {
            reasons: self.reasons.clone(),
            since: self.since,
            until: self.until,
            partitions: self.partitions.clone(),
            offsets: self.offsets,
            replays: match (self.pending, self.replayed) {
                (true, _) => Replays::Pending,
                (_, true) => Replays::Done,
                _ => Replays::Any,
            },
        }
    }

    pub fn limit(&self) -> u64 {
        self.limit.unwrap_or(u64::MAX)
    }
}

/// A record's place in the topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let parse = || {
            let (partition, offset) = text.split_once('/')?;
            Some(Place { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        let place = parse().filter(|place| place.partition >= 0 && place.offset >= 0);
        place.ok_or_else(|| "a partition and an offset are written as 3/42".to_owned())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl What {
    pub fn dataset(&self) -> &str {
        match self {
            What::Ls(args) => &args.dataset,
            What::Show(args) => &args.dataset,
            What::Export(args) => &args.dataset,
            What::Replay(args) => &args.dataset,
        }
    }
}

impl Dead {
    /// The brokers, which only a replay needs.
    pub fn kafka(&self) -> Option<&Kafka> {
        match &self.what {
            What::Replay(replay) => Some(&replay.kafka),
            _ => None,
        }
    }
}
