//! The sections of `lakehose.toml` that no role owns alone.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// `[memory]`: what the buffers of a role may take.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    pub processor: ByteSize,
    pub compactor: ByteSize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { processor: ByteSize::mib(512), compactor: ByteSize::mib(512) }
    }
}

/// `[kafka]`: the cluster, when the log is not on this machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port`, separated by commas.
    pub brokers: Option<String>,
    /// Static membership: a restarted processor of this name gets its partitions back without a rebalance.
    pub group_instance_id: Option<String>,
    /// What atomic batches are signed with, by this gateway alone: with a name that stays the same, a gateway that is
    /// started again ends the transaction that it left open when it was killed.
    pub transactional_id: Option<String>,
    /// Any option of librdkafka.
    #[serde(deserialize_with = "options")]
    pub options: BTreeMap<String, String>,
}

/// `[eventlog]`: the embedded log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventLog {
    /// Events that are in the table leave the log after this time.
    #[serde(with = "humantime_serde")]
    pub retain_age: Duration,
    /// Events that are in the table leave the log, oldest first, as far as it keeps this much of a dataset.
    pub retain_bytes: ByteSize,
    /// What the log may hold in all; beyond it the gateway answers 503.
    pub disk_budget: ByteSize,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog {
            retain_age: Duration::from_secs(24 * 3600),
            retain_bytes: ByteSize::gib(1),
            disk_budget: ByteSize::gib(8),
        }
    }
}

/// librdkafka takes every value as text; in TOML numbers and booleans are written without quotes.
fn options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string, number or boolean")]
    enum Scalar {
        Text(String),
        Integer(i64),
        Float(f64),
        Boolean(bool),
    }
    let options = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
    let text = |scalar| match scalar {
        Scalar::Text(text) => text,
        Scalar::Integer(number) => number.to_string(),
        Scalar::Float(number) => number.to_string(),
        Scalar::Boolean(boolean) => boolean.to_string(),
    };
    Ok(options.into_iter().map(|(name, value)| (name, text(value))).collect())
}
