//! A dataset: one topic, one table, and what was declared about its events.

use crate::event::MAX_NAME_BYTES;
use crate::table::DELETED_FILE_RETENTION;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::fmt;
use std::time::Duration;

/// Columns that every table has before and after the declared ones; see [`crate::schema`].
pub const FIXED_COLUMNS: [&str; 9] =
    ["id", "device_id", "type", "time", "received_at", "data", "kafka_partition", "kafka_offset", "date"];

/// Name of the table of dead letters of a dataset.
pub fn dead_table(dataset: &str) -> String {
    format!("{dataset}__dead")
}

/// Name of the table that tells which dead letters of a dataset were replayed.
pub fn dead_replays_table(dataset: &str) -> String {
    format!("{dataset}__dead_replays")
}

/// What a dataset is called, how it is split and which columns it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Name of the topic, of the table's directory and in the URL.
    pub name: String,
    /// Declarations.
    pub spec: DatasetSpec,
}

/// The declarations of one dataset, as in a `[datasets.<name>]` section.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetSpec {
    /// Partitions of the topic; used when the topic is created.
    pub partitions: u32,
    /// Typed columns taken out of `data`, in the order of the declaration.
    #[serde(deserialize_with = "columns")]
    pub columns: Vec<Column>,
    /// Order of rows inside a file.
    pub sort_by: Vec<String>,
    /// How long rows are kept, by `date`; absent: for ever.
    #[serde(with = "humantime_serde")]
    pub retention: Option<Duration>,
    /// How far back repeated event ids are recognised; 0: not at all.
    #[serde(with = "humantime_serde")]
    pub dedup_window: Duration,
    /// Oldest `time` that the gateway accepts.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Furthest `time` in the future that the gateway accepts.
    #[serde(with = "humantime_serde")]
    pub max_ahead: Duration,
    /// Who goes first when the gateway cannot take everything.
    pub priority: Priority,
}

impl Default for DatasetSpec {
    fn default() -> Self {
        DatasetSpec {
            partitions: 6,
            columns: Vec::new(),
            sort_by: vec!["device_id".into(), "time".into()],
            retention: None,
            dedup_window: Duration::from_secs(10 * 60),
            max_age: Duration::from_secs(7 * 24 * 3600),
            max_ahead: Duration::from_secs(3600),
            priority: Priority::default(),
        }
    }
}

/// Under pressure the gateway refuses events of the lower class first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

impl Priority {
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::Low => "low",
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }
}

/// A declared column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    /// Where its value stands in `data`, member by member; by default the member of the column's name.
    pub from: Vec<String>,
    /// Whether files carry its minimum and maximum, for readers to skip files.
    pub stats: bool,
}

/// Types a column can be declared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    String,
    Int,
    Long,
    Float,
    Double,
    Boolean,
    Timestamp,
}

impl Dataset {
    /// Checks names and references. The message says what to change.
    pub fn new(name: impl Into<String>, spec: DatasetSpec) -> Result<Dataset, DatasetError> {
        let dataset = Dataset { name: name.into(), spec };
        dataset.check_name()?;
        dataset.check_columns()?;
        dataset.check_sort_by()?;
        dataset.check_dedup_window()?;
        Ok(dataset)
    }

    fn check_name(&self) -> Result<(), DatasetError> {
        let name = &self.name;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !name.bytes().all(plain) || !name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) {
            return Err(DatasetError::Name {
                name: name.clone(),
                rule: "letters, digits, `_` and `-`, starting with a letter or digit",
            });
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(DatasetError::Name { name: name.clone(), rule: "at most 128 characters" });
        }
        if name.ends_with("__dead") || name.ends_with("__dead_replays") {
            return Err(DatasetError::Name {
                name: name.clone(),
                rule: "another ending: `__dead` and `__dead_replays` mark tables of dead letters",
            });
        }
        if name.ends_with("__commits") {
            return Err(DatasetError::Name {
                name: name.clone(),
                rule: "another ending: `__commits` marks topics by which processors agree on commits",
            });
        }
        if !(1..=10_000).contains(&self.spec.partitions) {
            return Err(self.invalid("partitions", "must be between 1 and 10000"));
        }
        Ok(())
    }

    fn check_columns(&self) -> Result<(), DatasetError> {
        let mut seen: Vec<String> = FIXED_COLUMNS.iter().map(|name| name.to_string()).collect();
        for column in &self.spec.columns {
            let name = column.name.to_ascii_lowercase();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(
                    self.invalid("columns", format!("`{name}` is not a column name: use letters, digits and `_`"))
                );
            }
            if column.from.is_empty() || column.from.iter().any(String::is_empty) {
                return Err(self.invalid(
                    "columns",
                    format!("`from` of `{name}` must name a member of data, as `firmware.version`"),
                ));
            }
            // Readers of the table treat column names without regard to case.
            if seen.contains(&name) {
                return Err(
                    self.invalid("columns", format!("`{name}` is already a column of every table, or declared twice"))
                );
            }
            seen.push(name);
            if let Some(other) =
                self.spec.columns.iter().find(|o| o.name != column.name && overlaps(&o.from, &column.from))
            {
                return Err(self.invalid(
                    "columns",
                    format!("`{}` and `{}` are taken from the same member of data", column.name, other.name),
                ));
            }
        }
        Ok(())
    }

    fn check_sort_by(&self) -> Result<(), DatasetError> {
        for name in &self.spec.sort_by {
            let known = FIXED_COLUMNS.contains(&name.as_str()) || self.spec.columns.iter().any(|c| c.name == *name);
            if !known {
                return Err(self.invalid("sort_by", format!("`{name}` is not a column of the table")));
            }
        }
        Ok(())
    }

    /// After a restart the window is read from files, and those that were merged away are kept only for so long.
    fn check_dedup_window(&self) -> Result<(), DatasetError> {
        let longest = DELETED_FILE_RETENTION;
        if self.spec.dedup_window <= longest {
            return Ok(());
        }
        let longest = longest.as_secs() / 3600;
        Err(self.invalid("dedup_window", format!("must be at most {longest}h; \"0s\" switches deduplication off")))
    }

    fn invalid(&self, field: &'static str, problem: impl Into<String>) -> DatasetError {
        DatasetError::Field { dataset: self.name.clone(), field, problem: problem.into() }
    }
}

/// One path is the other, or lies inside it.
fn overlaps(a: &[String], b: &[String]) -> bool {
    let shorter = a.len().min(b.len());
    a[..shorter] == b[..shorter]
}

/// A declaration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    #[error("`{name}` cannot be the name of a dataset: use {rule}")]
    Name { name: String, rule: &'static str },
    #[error("dataset `{dataset}`: {field}: {problem}")]
    Field { dataset: String, field: &'static str, problem: String },
}

/// `"double"`, or `{ type = "string", from = "firmware.version", stats = true }`.
#[derive(serde::Deserialize)]
#[serde(
    untagged,
    expecting = "a type such as \"double\", or { type = \"string\", from = \"firmware.version\", stats = true }; types are string, int, long, float, double, boolean, timestamp"
)]
enum ColumnSpec {
    Type(ColumnType),
    Full(FullColumnSpec),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FullColumnSpec {
    #[serde(rename = "type")]
    kind: ColumnType,
    from: Option<String>,
    #[serde(default)]
    stats: bool,
}

/// A table of columns, in the order in which it is written.
fn columns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Column>, D::Error> {
    struct V;
    impl<'de> Visitor<'de> for V {
        type Value = Vec<Column>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of columns, as { temp = \"double\" }")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut columns = Vec::new();
            while let Some((name, spec)) = map.next_entry::<String, ColumnSpec>()? {
                let spec = match spec {
                    ColumnSpec::Type(kind) => FullColumnSpec { kind, from: None, stats: false },
                    ColumnSpec::Full(spec) => spec,
                };
                let from = spec.from.as_deref().unwrap_or(&name).split('.').map(str::to_owned).collect();
                columns.push(Column { name, kind: spec.kind, from, stats: spec.stats });
            }
            Ok(columns)
        }
    }
    deserializer.deserialize_map(V)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> DatasetSpec {
        serde_json::from_str(json).unwrap()
    }

    fn problem(name: &str, json: &str) -> String {
        Dataset::new(name, spec(json)).unwrap_err().to_string()
    }

    #[test]
    fn reads_both_forms_of_a_column_in_their_order() {
        let spec = spec(
            r#"{"columns":{"temp":"double","fw":{"type":"string","from":"firmware.version","stats":true}},"retention":"90d"}"#,
        );
        let dataset = Dataset::new("heartbeats", spec).unwrap();
        let columns = &dataset.spec.columns;
        assert_eq!((columns[0].name.as_str(), columns[0].kind), ("temp", ColumnType::Double));
        assert_eq!(columns[1].from, ["firmware", "version"]);
        assert!(columns[1].stats && !columns[0].stats);
        assert_eq!(dataset.spec.retention, Some(Duration::from_secs(90 * 24 * 3600)));
    }

    #[test]
    fn refuses_names_that_are_paths_or_taken() {
        for name in ["", "../x", "a/b", "-a", "a b", "é", "events__dead", "events__dead_replays", "events__commits"] {
            assert!(Dataset::new(name, DatasetSpec::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn refuses_columns_that_collide() {
        assert!(problem("d", r#"{"columns":{"Time":"long"}}"#).contains("already a column"));
        assert!(problem("d", r#"{"columns":{"a":"long","b":{"type":"long","from":"a.x"}}}"#).contains("same member"));
        assert!(problem("d", r#"{"columns":{"a":{"type":"long","from":"x..y"}}}"#).contains("from"));
        assert!(problem("d", r#"{"sort_by":["nope"]}"#).contains("nope"));
        assert!(problem("d", r#"{"partitions":0}"#).contains("partitions"));
    }

    #[test]
    fn refuses_a_window_longer_than_the_files_it_is_read_from_are_kept() {
        assert!(Dataset::new("d", spec(r#"{"dedup_window":"6h"}"#)).is_ok());
        assert!(Dataset::new("d", spec(r#"{"dedup_window":"0s"}"#)).is_ok());
        assert!(problem("d", r#"{"dedup_window":"6h 1s"}"#).contains("at most 6h"));
    }

    #[test]
    fn an_unknown_type_names_the_known_ones() {
        let err = serde_json::from_str::<DatasetSpec>(r#"{"columns":{"a":"integer"}}"#).unwrap_err().to_string();
        assert!(err.contains("boolean"), "{err}");
    }
}
