//! The configuration file of a scenario.

use std::fmt::Write;

/// What scenarios set; everything else is as a user gets it.
#[derive(Debug, Clone)]
pub struct Config {
    pub dataset: String,
    pub partitions: u32,
    pub flush_every: &'static str,
    pub compact_every: &'static str,
    /// When a date counts as written, so that all its files are merged.
    pub cold_after: &'static str,
    /// The declared columns.
    pub columns: &'static str,
    pub brokers: Option<String>,
    /// Options of librdkafka, in TOML.
    pub kafka_options: String,
    pub lake: Option<String>,
    /// Where processes find the S3 server, if not where the test does.
    pub store: Option<String>,
    /// Further lines of TOML: sections that are not named above.
    pub more: &'static str,
}

/// A processor that was killed is missed sooner than in production, for the test's sake.
pub const MISSED_SOON: &str = "'session.timeout.ms' = 6000, 'heartbeat.interval.ms' = 1000";

impl Config {
    /// Embedded log and local lake.
    pub fn new(dataset: &str) -> Config {
        Config {
            dataset: super::unique(dataset),
            partitions: 4,
            flush_every: "500ms",
            compact_every: "1s",
            cold_after: "1h",
            // What `device::Event` posts.
            columns: "{ seq = 'long', temp = 'double', fw = { type = 'string', from = 'os.fw' } }",
            brokers: None,
            kafka_options: MISSED_SOON.to_owned(),
            lake: None,
            store: None,
            more: "",
        }
    }

    pub fn to_toml(&self) -> String {
        let Config { dataset, partitions, columns, brokers, kafka_options, lake, more, .. } = self;
        let mut toml = String::new();
        if let Some(lake) = lake {
            writeln!(toml, "lake = '{lake}'").unwrap();
        }
        writeln!(toml, "[datasets.{dataset}]\npartitions = {partitions}\ncolumns = {columns}").unwrap();
        writeln!(toml, "[flush]\nevery = '{}'", self.flush_every).unwrap();
        writeln!(toml, "[compaction]\nevery = '{}'\ncold_after = '{}'", self.compact_every, self.cold_after).unwrap();
        if let Some(brokers) = brokers {
            writeln!(toml, "[kafka]\nbrokers = '{brokers}'\noptions = {{ {kafka_options} }}").unwrap();
        }
        writeln!(toml, "{more}").unwrap();
        toml
    }
}
