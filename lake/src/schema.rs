//! The columns of a table: as Arrow fields for files, and as Delta's JSON for the table log.
//!
//! In order: `id, device_id, type, time, received_at`, the declared columns, `data, kafka_partition, kafka_offset`, and
//! last `date`, which is the partition column: readers see it, files do not hold it.

use crate::dataset::{Column, ColumnType, Dataset};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};
use std::sync::Arc;

/// The schema of a table's files, and what the table log says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSchema {
    /// Columns of the files: all but `date`.
    pub arrow: SchemaRef,
    /// Columns whose minimum and maximum go into the table log.
    pub stats: Vec<String>,
}

/// Timestamps are microseconds with this zone, which readers show as "with time zone".
pub const ZONE: &str = "UTC";

/// The table of events of a dataset.
pub fn events(dataset: &Dataset) -> TableSchema {
    let mut fields = vec![text("id"), text("device_id"), text("type"), timestamp("time"), timestamp("received_at")];
    fields.extend(dataset.spec.columns.iter().map(declared));
    fields.extend([
        text("data"),
        Field::new("kafka_partition", DataType::Int32, true),
        Field::new("kafka_offset", DataType::Int64, true),
    ]);
    let mut stats = names(&["device_id", "time", "kafka_partition", "kafka_offset"]);
    stats.extend(dataset.spec.columns.iter().filter(|column| column.stats).map(|column| column.name.clone()));
    TableSchema { arrow: Arc::new(Schema::new(fields)), stats }
}

/// The table of dead letters, alike for every dataset.
pub fn dead() -> TableSchema {
    let fields = vec![
        text("reason"),
        text("detail"),
        text("topic"),
        Field::new("kafka_partition", DataType::Int32, true),
        Field::new("kafka_offset", DataType::Int64, true),
        timestamp("received_at"),
        Field::new("key", DataType::Binary, true),
        Field::new("payload", DataType::Binary, true),
        text("headers"),
    ];
    let stats = names(&["reason", "kafka_partition", "kafka_offset", "received_at"]);
    TableSchema { arrow: Arc::new(Schema::new(fields)), stats }
}

/// The table of replayed dead letters, alike for every dataset: where each came from and where it is now.
/// `replayed_offset` is null while a batch is under way; until then the row holds the record as it is to be appended.
pub fn dead_replays() -> TableSchema {
    let fields = vec![
        text("batch"),
        Field::new("kafka_partition", DataType::Int32, true),
        Field::new("kafka_offset", DataType::Int64, true),
        timestamp("replayed_at"),
        Field::new("corrected", DataType::Boolean, true),
        Field::new("replayed_partition", DataType::Int32, true),
        Field::new("replayed_offset", DataType::Int64, true),
        Field::new("key", DataType::Binary, true),
        Field::new("payload", DataType::Binary, true),
        text("headers"),
    ];
    let stats = names(&["kafka_partition", "kafka_offset", "replayed_at", "replayed_offset"]);
    TableSchema { arrow: Arc::new(Schema::new(fields)), stats }
}

impl TableSchema {
    /// Delta's `schemaString`, with the partition column at the end.
    pub fn to_delta(&self) -> String {
        let mut fields: Vec<Value> =
            self.arrow.fields().iter().map(|field| delta_field(field.name(), delta_type(field.data_type()))).collect();
        fields.push(delta_field("date", "date"));
        json!({ "type": "struct", "fields": fields }).to_string()
    }

    /// What in an existing table, given by its `schemaString`, contradicts this schema; `None` if nothing does.
    pub fn conflict_with(&self, existing: &str) -> Option<String> {
        let wanted: Value = serde_json::from_str(&self.to_delta()).ok()?;
        let Ok(existing) = serde_json::from_str::<Value>(existing) else {
            return Some("its schema cannot be read".into());
        };
        let (wanted, existing) = (field_types(&wanted), field_types(&existing));
        for (name, kind) in &wanted {
            match existing.iter().find(|(other, _)| other == name) {
                None => return Some(format!("it has no column `{name}`")),
                Some((_, other)) if other != kind => {
                    return Some(format!("its column `{name}` is {other}, not {kind}"));
                }
                Some(_) => {}
            }
        }
        let extra = existing.iter().find(|(name, _)| !wanted.iter().any(|(other, _)| other == name));
        extra.map(|(name, _)| format!("it has a column `{name}` that is not declared"))
    }
}

fn declared(column: &Column) -> Field {
    let kind = match column.kind {
        ColumnType::String => DataType::Utf8,
        ColumnType::Int => DataType::Int32,
        ColumnType::Long => DataType::Int64,
        ColumnType::Float => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Timestamp => timestamp_type(),
    };
    Field::new(&column.name, kind, true)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn timestamp(name: &str) -> Field {
    Field::new(name, timestamp_type(), true)
}

fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into()))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn delta_field(name: &str, kind: &str) -> Value {
    json!({ "name": name, "type": kind, "nullable": true, "metadata": {} })
}

fn delta_type(kind: &DataType) -> &'static str {
    match kind {
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Boolean => "boolean",
        DataType::Binary => "binary",
        DataType::Timestamp(_, _) => "timestamp",
        _ => "string",
    }
}

fn field_types(schema: &Value) -> Vec<(String, String)> {
    let fields = schema["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.iter().map(|field| (text(&field["name"]), text(&field["type"]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::DatasetSpec;

    fn dataset(columns: &str) -> Dataset {
        let spec: DatasetSpec = serde_json::from_str(&format!("{{\"columns\":{columns}}}")).unwrap();
        Dataset::new("d", spec).unwrap()
    }

    #[test]
    fn columns_stand_in_the_promised_order() {
        let schema = events(&dataset(r#"{"temp":"double","battery":"long"}"#));
        let names: Vec<String> = field_types(&serde_json::from_str(&schema.to_delta()).unwrap())
            .into_iter()
            .map(|(name, kind)| format!("{name} {kind}"))
            .collect();
        assert_eq!(
            names.join(", "),
            "id string, device_id string, type string, time timestamp, received_at timestamp, temp double, battery \
             long, data string, kafka_partition integer, kafka_offset long, date date"
        );
    }

    #[test]
    fn a_foreign_table_is_told_apart_by_its_first_difference() {
        let ours = events(&dataset(r#"{"temp":"double"}"#));
        assert_eq!(ours.conflict_with(&ours.to_delta()), None);
        let other = events(&dataset(r#"{"temp":"long"}"#)).to_delta();
        assert_eq!(ours.conflict_with(&other).unwrap(), "its column `temp` is long, not double");
        assert!(ours.conflict_with(&dead().to_delta()).unwrap().contains("no column `id`"));
        assert!(ours.conflict_with("?").is_some());
    }
}
