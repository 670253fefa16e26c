//! What can be said on the command line.
//!
//! Every option has an environment variable. An option wins over its variable, and both win over the configuration file.

use crate::bench::args::Bench;
use crate::config::Overrides;
use crate::dead::args::Dead;
use crate::keys::args::Keys;
use crate::listen::ListenAddr;
use crate::print::cut;
use crate::telemetry::LogFormat;
use chrono::NaiveDate;
use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use compactor::delete::Predicate;
use std::path::PathBuf;
use std::process::ExitCode;

/// Takes events from devices over HTTP and keeps them in Parquet tables, each event exactly once.
#[derive(Debug, Parser)]
#[command(name = "lakehose", version, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process: gateway, log, processor and compactor
    Up(Up),
    /// Run the gateway: HTTP to Kafka
    Ingest(Ingest),
    /// Run a processor: Kafka to the table; start as many as there are partitions
    Processor(Processor),
    /// Run the compactor: many small files of the table to few large ones
    Compactor(Compactor),
    /// List the files that make up a table, for engines that do not read Delta
    Files(Files),
    /// Merge small files of a table now, as if nobody wrote to its dates any more
    Compact(Compact),
    /// List what was done to a table, the newest first
    History(History),
    /// Take away what a table does not need any more, or tell what and when that is; a compactor does so by itself
    Sweep(Sweep),
    /// Look at records that are no events, take them out, and replay them as they were or corrected
    Dead(Dead),
    /// Delete rows of a table: those of a device, of an event, of a time
    Delete(Delete),
    /// Make, list and revoke the API keys that devices post with
    Keys(Keys),
    /// Check the configuration, and that the log and the lake can be reached
    Check(Check),
    /// Measure: post a file of events to a gateway, or see how fast a part is on this machine
    Bench(Bench),
}

#[derive(Debug, clap::Args)]
pub struct Up {
    #[command(flatten)]
    pub http: Http,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct Ingest {
    #[command(flatten)]
    pub http: Http,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct Processor {
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct Compactor {
    #[command(flatten)]
    pub admin: Admin,
}

#[derive(Debug, clap::Args)]
pub struct Files {
    /// The dataset whose table is meant
    pub dataset: String,
    /// List the files of this version of the table [default: the newest]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// One JSON object a line, instead of columns
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Compact {
    /// The dataset whose table is meant, or its table of dead letters, events__dead for `events`
    pub dataset: String,
    /// Only this date [default: all of them]
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = date)]
    pub date: Option<NaiveDate>,
    /// Say what would be merged, and merge nothing
    #[arg(long)]
    pub dry_run: bool,
    /// JSON instead of words: one object at the end, or for a dry run one for each merge
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Sweep {
    /// The dataset whose tables are meant: events, dead letters and marks of replays
    pub dataset: String,
    /// Tell what would be taken away, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object a line, with the paths of what is deleted, instead of columns
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct History {
    /// The dataset whose table is meant, or another table of it, such as events__dead for `events`
    pub dataset: String,
    /// How many versions at most
    #[arg(long, value_name = "N", default_value = "20")]
    pub limit: usize,
    /// One JSON object a line, instead of columns
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// The dataset whose rows are meant
    pub dataset: String,
    /// Which rows: conditions joined by AND, such as "device_id = 'x' AND time < '2026-11-22'"
    #[arg(long = "where", value_name = "CONDITION", required_unless_present = "where_file")]
    pub predicate: Option<Predicate>,
    /// The condition from a file, or from standard input if it is `-`: for more values than a command line takes
    #[arg(long, value_name = "FILE", conflicts_with = "predicate")]
    pub where_file: Option<PathBuf>,
    /// Say what would be deleted, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Say what was done as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    pub kafka: Kafka,
}

#[derive(Debug, clap::Args)]
pub struct Http {
    /// Where devices post to [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", env = "LAKEHOSE_LISTEN")]
    pub listen: Option<ListenAddr>,
    /// Without keys: accept events from anybody who can reach --listen, beyond this machine too
    #[arg(long, env = "LAKEHOSE_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
}

#[derive(Debug, clap::Args)]
pub struct Admin {
    /// Where /livez, /readyz and /metrics are served [default: 127.0.0.1:9090]
    #[arg(long, value_name = "HOST:PORT", env = "LAKEHOSE_ADMIN")]
    pub admin: Option<ListenAddr>,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Kafka {
    /// Kafka brokers, separated by commas; `up` without any has its log on this machine
    #[arg(long, value_name = "HOST:PORT", env = "LAKEHOSE_KAFKA_BROKERS")]
    pub brokers: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Configuration file [default: lakehose.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LAKEHOSE_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Directory of the embedded log, and of the tables unless --lake is given [default: lakehose-data]
    #[arg(long, value_name = "DIR", env = "LAKEHOSE_DATA", global = true)]
    pub data: Option<PathBuf>,
    /// Where the tables are: s3://bucket/prefix or file:///directory [default: the directory `lake` in --data]
    #[arg(long, value_name = "URL", env = "LAKEHOSE_LAKE", global = true)]
    pub lake: Option<String>,
    /// Which log lines appear, as `info,processor=debug` [default: info]
    #[arg(long, value_name = "FILTER", env = "LAKEHOSE_LOG", global = true)]
    pub log: Option<String>,
    /// How log lines look; auto: colours and a status line on a terminal, plain lines elsewhere
    #[arg(long, value_enum, default_value = "auto", env = "LAKEHOSE_LOG_FORMAT", global = true)]
    pub log_format: LogFormat,
}

impl Command {
    /// Whether it works on files of a table and does nothing else.
    pub fn only_merges(&self) -> bool {
        match self {
            Command::Compactor(_) | Command::Compact(_) | Command::Delete(_) => true,
            Command::Bench(bench) => bench.only_merges(),
            _ => false,
        }
    }
}

impl Args {
    /// Parses the command line. What is not to be run (help, version, a mistake) is printed, and answered with the
    /// code to exit with.
    pub fn from_command_line() -> Result<Args, ExitCode> {
        Args::try_parse().map_err(|err| match err.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                // Nobody is there to be told when printing fails.
                let _ = err.print();
                ExitCode::from(err.exit_code() as u8)
            }
            _ => {
                eprintln!("lakehose: {}; see `lakehose --help`", one_sentence(&with_short_value(err).to_string()));
                ExitCode::from(2)
            }
        })
    }

    /// What the command line says about the configuration.
    pub fn overrides(&self) -> Overrides {
        let (http, admin, kafka) = match &self.command {
            Command::Up(up) => (Some(&up.http), Some(&up.admin), Some(&up.kafka)),
            Command::Ingest(ingest) => (Some(&ingest.http), Some(&ingest.admin), Some(&ingest.kafka)),
            Command::Processor(processor) => (None, Some(&processor.admin), Some(&processor.kafka)),
            Command::Compactor(compactor) => (None, Some(&compactor.admin), None),
            Command::Check(check) => (None, None, Some(&check.kafka)),
            Command::Bench(bench) => (None, None, bench.kafka()),
            Command::Dead(dead) => (None, None, dead.kafka()),
            Command::Files(_) | Command::Compact(_) | Command::History(_) => (None, None, None),
            Command::Sweep(_) | Command::Delete(_) | Command::Keys(_) => (None, None, None),
        };
        Overrides {
            data: self.global.data.clone(),
            lake: self.global.lake.clone(),
            listen: http.and_then(|http| http.listen.clone()),
            admin: admin.and_then(|admin| admin.admin.clone()),
            brokers: kafka.and_then(|kafka| kafka.brokers.clone()),
        }
    }
}

fn date(text: &str) -> Result<NaiveDate, &'static str> {
    text.parse().map_err(|_| "it is no date such as 2026-11-22")
}

/// The same mistake, of which the value is not repeated at length.
fn with_short_value(mut err: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(value)) = err.get(ContextKind::InvalidValue) {
        let value = cut(value, VALUE);
        err.insert(ContextKind::InvalidValue, ContextValue::String(value));
    }
    err
}

/// Bytes of a wrong value that are repeated.
const VALUE: usize = 200;

/// Clap's message without its usage and hints, which take many lines.
fn one_sentence(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = message.split("\n\nUsage:").next().unwrap_or(message);
    let message = message.split("\n\nFor more information").next().unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_told_in_one_sentence() {
        let err = Args::try_parse_from(["lakehose", "up", "--listen", "nowhere"]).unwrap_err();
        let sentence = one_sentence(&err.to_string());
        assert!(sentence.contains("--listen") && sentence.contains("127.0.0.1:8080"), "{sentence}");
        assert!(!sentence.contains('\n') && !sentence.contains("Usage"), "{sentence}");
    }

    #[test]
    fn a_value_of_a_hundred_thousand_bytes_is_not_repeated() {
        let many = format!("device_id NOT IN ({})", vec!["'ü'"; 25_000].join(", "));
        let err = Args::try_parse_from(["lakehose", "delete", "events", "--where", &many]).unwrap_err();
        let sentence = one_sentence(&with_short_value(err).to_string());
        assert!(sentence.len() < 1_000, "{} bytes", sentence.len());
        assert!(sentence.contains("device_id NOT IN ('ü'") && sentence.contains("joined by AND"), "{sentence}");
    }
}
