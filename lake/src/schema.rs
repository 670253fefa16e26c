//! The columns of a table: as Arrow fields for files, and as Delta's JSON for the table log.
//!
//! In order: `id, device_id, type, time, received_at`, the declared columns, `data, kafka_partition, kafka_offset`, and
//! last `date`, which is the partition column: readers see it, files do not hold it.

use crate::dataset::{ColumnType, Dataset};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::Arc;

/// The schema of a table's files, and what the table log says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSchema {
    /// Columns of the files: all but `date`.
    pub arrow: SchemaRef,
    /// Which of them are declared, or were once.
    pub declared: Range<usize>,
    /// Columns whose minimum and maximum go into the table log.
    pub stats: Vec<String>,
}

/// A table log whose columns are not such as this project writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("its schema cannot be read")]
    Schema,
    #[error("its column `{column}` is {kind}, which no table of Lakehose has")]
    Type { column: String, kind: String },
}

/// Timestamps are microseconds with this zone, which readers show as "with time zone".
pub const ZONE: &str = "UTC";

/// The table of events of a dataset.
pub fn events(dataset: &Dataset) -> TableSchema {
    let mut fields = vec![text("id"), text("device_id"), text("type"), timestamp("time"), timestamp("received_at")];
    let declared = fields.len()..fields.len() + dataset.spec.columns.len();
    fields.extend(dataset.spec.columns.iter().map(|column| Field::new(&column.name, column.kind.arrow(), true)));
    fields.extend([
        text("data"),
        Field::new("kafka_partition", DataType::Int32, true),
        Field::new("kafka_offset", DataType::Int64, true),
    ]);
    let mut stats = names(&["device_id", "time", "kafka_partition", "kafka_offset"]);
    stats.extend(dataset.spec.columns.iter().filter(|column| column.stats).map(|column| column.name.clone()));
    TableSchema { arrow: Arc::new(Schema::new(fields)), declared, stats }
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
    TableSchema { arrow: Arc::new(Schema::new(fields)), declared: 0..0, stats }
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
    TableSchema { arrow: Arc::new(Schema::new(fields)), declared: 0..0, stats }
}

impl TableSchema {
    /// The columns of an existing table: from Delta's `schemaString`, and the property that names those with statistics.
    pub fn from_delta(schema: &str, stats: &str) -> Result<TableSchema, Unreadable> {
        let schema: Value = serde_json::from_str(schema).map_err(|_| Unreadable::Schema)?;
        let fields = schema["fields"].as_array().ok_or(Unreadable::Schema)?;
        let fields = fields.iter().filter(|field| field["name"] != PARTITION_COLUMN).map(arrow_field);
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        let place = |name: &str| fields.iter().position(|field| field.name() == name);
        let declared = match (place("received_at"), place("data")) {
            (Some(before), Some(after)) if before < after => before + 1..after,
            _ => 0..0,
        };
        let stats = stats.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(TableSchema { arrow: Arc::new(Schema::new(fields)), declared, stats })
    }

    /// Delta's `schemaString`, with the partition column at the end.
    pub fn to_delta(&self) -> String {
        self.to_delta_after("")
    }

    /// The same for a table that has had `existing`: what was noted at its columns, comments for example, stays.
    pub fn to_delta_after(&self, existing: &str) -> String {
        let existing: Value = serde_json::from_str(existing).unwrap_or_default();
        let existing = existing["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        let field = |name: &str, kind: &str| {
            let mut field = existing
                .iter()
                .find(|field| field["name"] == name)
                .cloned()
                .unwrap_or_else(|| json!({ "name": name, "type": kind, "nullable": true, "metadata": {} }));
            field["type"] = kind.into();
            field
        };
        let columns = self.arrow.fields().iter();
        let mut fields: Vec<Value> =
            columns.map(|column| field(column.name(), delta_type(column.data_type()))).collect();
        fields.push(field(PARTITION_COLUMN, "date"));
        json!({ "type": "struct", "fields": fields }).to_string()
    }

    /// Whether there is a column of this name.
    pub fn has(&self, name: &str) -> bool {
        self.arrow.index_of(name).is_ok()
    }

    /// The dataset with its columns typed as they are here: what a processor writes into this table.
    pub fn typed(&self, mut dataset: Dataset) -> Dataset {
        for column in &mut dataset.spec.columns {
            let kind =
                self.arrow.field_with_name(&column.name).ok().and_then(|field| ColumnType::of(field.data_type()));
            column.kind = kind.unwrap_or(column.kind);
        }
        dataset
    }
}

impl ColumnType {
    const ALL: [ColumnType; 7] = [
        ColumnType::String,
        ColumnType::Int,
        ColumnType::Long,
        ColumnType::Float,
        ColumnType::Double,
        ColumnType::Boolean,
        ColumnType::Timestamp,
    ];

    fn arrow(self) -> DataType {
        match self {
            ColumnType::String => DataType::Utf8,
            ColumnType::Int => DataType::Int32,
            ColumnType::Long => DataType::Int64,
            ColumnType::Float => DataType::Float32,
            ColumnType::Double => DataType::Float64,
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Timestamp => timestamp_type(),
        }
    }

    /// The type of a declaration that has become this column.
    pub(crate) fn of(kind: &DataType) -> Option<ColumnType> {
        ColumnType::ALL.into_iter().find(|declared| declared.arrow() == *kind)
    }
}

/// Readers see it, files do not hold it.
pub const PARTITION_COLUMN: &str = "date";

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

fn arrow_field(field: &Value) -> Result<Field, Unreadable> {
    let name = field["name"].as_str().ok_or(Unreadable::Schema)?;
    let kind = field["type"].as_str().and_then(arrow_type);
    let unknown = || Unreadable::Type { column: name.to_owned(), kind: field["type"].to_string() };
    Ok(Field::new(name, kind.ok_or_else(unknown)?, true))
}

fn arrow_type(delta: &str) -> Option<DataType> {
    match delta {
        "integer" => Some(DataType::Int32),
        "long" => Some(DataType::Int64),
        "float" => Some(DataType::Float32),
        "double" => Some(DataType::Float64),
        "boolean" => Some(DataType::Boolean),
        "binary" => Some(DataType::Binary),
        "timestamp" => Some(timestamp_type()),
        "string" => Some(DataType::Utf8),
        _ => None,
    }
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
        let delta: Value = serde_json::from_str(&schema.to_delta()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let fields = delta["fields"].as_array().unwrap().iter();
        let names: Vec<String> =
            fields.map(|field| format!("{} {}", text(&field["name"]), text(&field["type"]))).collect();
        assert_eq!(
            names.join(", "),
            "id string, device_id string, type string, time timestamp, received_at timestamp, temp double, battery \
             long, data string, kafka_partition integer, kafka_offset long, date date"
        );
    }

    #[test]
    fn a_schema_is_read_back_from_the_log_as_it_was() {
        let columns = r#"{"a":"string","b":"int","c":"long","d":"float","e":"double","f":"boolean","g":"timestamp"}"#;
        for schema in [events(&dataset(columns)), events(&dataset("{}")), dead()] {
            let read = TableSchema::from_delta(&schema.to_delta(), &schema.stats.join(",")).unwrap();
            assert_eq!(read.to_delta(), schema.to_delta());
            assert_eq!((&read.arrow, &read.stats), (&schema.arrow, &schema.stats));
            assert_eq!(read.declared.len(), schema.declared.len());
        }
    }

    #[test]
    fn what_is_noted_at_a_column_survives_a_change_of_its_type() {
        let old = events(&dataset(r#"{"n":"int"}"#)).to_delta();
        let noted = old.replacen(r#""metadata":{},"name":"n""#, r#""metadata":{"comment":"C"},"name":"n""#, 1);
        assert_ne!(old, noted);
        let new: Value = serde_json::from_str(&events(&dataset(r#"{"n":"long"}"#)).to_delta_after(&noted)).unwrap();
        let n = new["fields"].as_array().unwrap().iter().find(|field| field["name"] == "n").unwrap();
        assert_eq!((&n["type"], &n["metadata"]["comment"]), (&json!("long"), &json!("C")));
    }

    #[test]
    fn a_column_of_a_type_that_is_never_written_is_named() {
        let schema = events(&dataset(r#"{"n":"int"}"#)).to_delta().replace(r#""integer""#, r#""decimal(5,2)""#);
        let unreadable = TableSchema::from_delta(&schema, "").unwrap_err();
        assert_eq!(unreadable.to_string(), "its column `n` is \"decimal(5,2)\", which no table of Lakehose has");
        assert_eq!(TableSchema::from_delta("?", ""), Err(Unreadable::Schema));
    }
}
