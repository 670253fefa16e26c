//! Events to columns: what the processor does for every record.
//!
//! [`EventColumns`] holds the rows of one partition. A declared column takes its member out of `data` if the value
//! fits; a value that does not fit leaves the column null and stays in `data`, so no event is lost over a type (see
//! `docs/adr/0001-misfits-stay-in-data.md`). What no column took is written back to the column `data`.

use crate::dataset::{Column, ColumnType, Dataset};
use crate::event::{Event, Value, each_member, parse_time, time_from_millis};
use crate::schema::{self, TableSchema, ZONE};
use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int32Array, Int32Builder, Int64Array, Int64Builder,
    RecordBatch, StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use serde_json::value::RawValue;
use std::sync::Arc;

/// How events of a dataset become rows: worked out once, shared by all its partitions.
#[derive(Debug, Clone)]
pub struct RowPlan {
    pub schema: TableSchema,
    columns: Vec<Column>,
    wanted: Vec<Wanted>,
}

/// A member of `data` that a column takes, or that holds such members.
#[derive(Debug, Clone)]
struct Wanted {
    name: String,
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    Column(usize),
    Inside(Vec<Wanted>),
}

impl RowPlan {
    pub fn new(dataset: &Dataset) -> RowPlan {
        let mut wanted = Vec::new();
        for (index, column) in dataset.spec.columns.iter().enumerate() {
            want(&mut wanted, &column.from, index);
        }
        RowPlan { schema: schema::events(dataset), columns: dataset.spec.columns.clone(), wanted }
    }
}

fn want(wanted: &mut Vec<Wanted>, path: &[String], column: usize) {
    let Some((name, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        wanted.push(Wanted { name: name.clone(), target: Target::Column(column) });
        return;
    }
    let known = wanted.iter_mut().find_map(|w| match &mut w.target {
        Target::Inside(inside) if w.name == *name => Some(inside),
        _ => None,
    });
    match known {
        Some(inside) => want(inside, rest, column),
        None => {
            let mut inside = Vec::new();
            want(&mut inside, rest, column);
            wanted.push(Wanted { name: name.clone(), target: Target::Inside(inside) });
        }
    }
}

/// What the record adds to the event.
#[derive(Debug, Clone, Copy)]
pub struct RowMeta<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Microseconds since the epoch; stands in for an absent `time`.
    pub received_at: i64,
    /// Stands in for an absent `id`.
    pub id: &'a str,
}

/// Rows of events, column by column, in the order in which they were pushed.
#[derive(Debug)]
pub struct EventColumns {
    plan: Arc<RowPlan>,
    id: StringBuilder,
    device_id: StringBuilder,
    kind: StringBuilder,
    time: Vec<i64>,
    received_at: Vec<i64>,
    declared: Vec<Declared>,
    data: StringBuilder,
    partition: Vec<i32>,
    offset: Vec<i64>,
    /// Reused between rows.
    rest: Vec<u8>,
}

impl EventColumns {
    pub fn new(plan: Arc<RowPlan>) -> EventColumns {
        let declared = plan.columns.iter().map(|column| Declared::new(column.kind)).collect();
        EventColumns {
            plan,
            id: StringBuilder::new(),
            device_id: StringBuilder::new(),
            kind: StringBuilder::new(),
            time: Vec::new(),
            received_at: Vec::new(),
            declared,
            data: StringBuilder::new(),
            partition: Vec::new(),
            offset: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn push(&mut self, event: &Event<'_>, meta: RowMeta<'_>) {
        self.id.append_value(event.id.as_deref().unwrap_or(meta.id));
        self.device_id.append_value(&event.device_id);
        self.kind.append_option(event.kind.as_deref());
        self.time.push(event.time.unwrap_or(meta.received_at));
        self.received_at.push(meta.received_at);
        self.partition.push(meta.partition);
        self.offset.push(meta.offset);
        if self.plan.wanted.is_empty() && event.others.is_empty() {
            self.data.append_option(event.data.map(RawValue::get).filter(|text| !is_empty_object(text)));
        } else {
            self.push_members(event);
        }
    }

    fn push_members(&mut self, event: &Event<'_>) {
        self.rest.clear();
        self.rest.push(b'{');
        let EventColumns { plan, declared, rest, .. } = self;
        event.members(|name, value| take(name, value, &plan.wanted, declared, rest));
        for column in declared.iter_mut() {
            column.end_row();
        }
        if self.rest.len() == 1 {
            self.data.append_null();
            return;
        }
        self.rest.push(b'}');
        // Made of UTF-8 texts and JSON punctuation only.
        self.data.append_value(String::from_utf8_lossy(&self.rest));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// Bytes that the rows hold in memory, growth reserves not counted.
    pub fn bytes(&self) -> usize {
        let texts = [&self.id, &self.device_id, &self.kind, &self.data];
        let texts: usize = texts.iter().map(|text| text.values_slice().len()).sum();
        let declared: usize = self.declared.iter().map(Declared::text_bytes).sum();
        // Four offsets of texts, three i64, one i32, and at most nine bytes a declared column.
        texts + declared + self.len() * (4 * 4 + 3 * 8 + 4 + 9 * self.declared.len())
    }

    /// The rows as Arrow columns.
    pub fn finish(mut self) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.device_id.finish()),
            Arc::new(self.kind.finish()),
            timestamps(self.time),
            timestamps(self.received_at),
        ];
        columns.extend(self.declared.iter_mut().map(Declared::finish));
        columns.push(Arc::new(self.data.finish()));
        columns.push(Arc::new(Int32Array::from(self.partition)));
        columns.push(Arc::new(Int64Array::from(self.offset)));
        let schema = Arc::clone(&self.plan.schema.arrow);
        RecordBatch::try_new(schema, columns).expect("columns are built in the order of the schema, alike in length")
    }
}

fn timestamps(micros: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(micros).with_timezone(ZONE))
}

fn is_empty_object(text: &str) -> bool {
    text.len() == 2 || text[1..text.len() - 1].trim().is_empty()
}

/// Gives a member to the column that wants it, or writes it to `rest`.
fn take(name: &str, value: &RawValue, wanted: &[Wanted], declared: &mut [Declared], rest: &mut Vec<u8>) {
    let taken = match wanted.iter().find(|wanted| wanted.name == name).map(|wanted| &wanted.target) {
        Some(Target::Column(index)) => declared[*index].take(value),
        Some(Target::Inside(inside)) => {
            let members = value.get().starts_with('{') && !is_empty_object(value.get());
            members && {
                take_inside(name, value, inside, declared, rest);
                true
            }
        }
        None => false,
    };
    if !taken {
        write_name(name, rest);
        rest.extend_from_slice(value.get().as_bytes());
    }
}

/// As [`take`] for the members of an object; the object itself goes to `rest` if any of them is left.
fn take_inside(name: &str, object: &RawValue, wanted: &[Wanted], declared: &mut [Declared], rest: &mut Vec<u8>) {
    let before = rest.len();
    write_name(name, rest);
    rest.push(b'{');
    let opened = rest.len();
    each_member(object, &mut |name, value| take(name, value, wanted, declared, rest));
    if rest.len() == opened {
        rest.truncate(before);
    } else {
        rest.push(b'}');
    }
}

fn write_name(name: &str, rest: &mut Vec<u8>) {
    if rest.last() != Some(&b'{') {
        rest.push(b',');
    }
    if name.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        rest.push(b'"');
        rest.extend_from_slice(name.as_bytes());
        rest.push(b'"');
    } else {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *rest, name);
    }
    rest.push(b':');
}

/// A declared column under construction.
#[derive(Debug)]
struct Declared {
    values: Values,
    /// Whether the row under construction has its value, so that a repeated member stays in `data`.
    filled: bool,
}

#[derive(Debug)]
enum Values {
    String(StringBuilder),
    Int(Int32Builder),
    Long(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Declared {
    fn new(kind: ColumnType) -> Declared {
        let values = match kind {
            ColumnType::String => Values::String(StringBuilder::new()),
            ColumnType::Int => Values::Int(Int32Builder::new()),
            ColumnType::Long => Values::Long(Int64Builder::new()),
            ColumnType::Float => Values::Float(Float32Builder::new()),
            ColumnType::Double => Values::Double(Float64Builder::new()),
            ColumnType::Boolean => Values::Boolean(BooleanBuilder::new()),
            ColumnType::Timestamp => Values::Timestamp(TimestampMicrosecondBuilder::new().with_timezone(ZONE)),
        };
        Declared { values, filled: false }
    }

    /// Whether the value fits and was taken. A JSON null fits every column.
    fn take(&mut self, value: &RawValue) -> bool {
        if self.filled {
            return false;
        }
        let Some(value) = Value::of(value) else { return false };
        let fits = match (&mut self.values, &value) {
            (_, Value::Null) => return true,
            (Values::String(column), Value::Text(text)) => Some(text.as_ref()).map(|v| column.append_value(v)),
            (Values::Int(column), _) => {
                integer(&value).and_then(|v| i32::try_from(v).ok()).map(|v| column.append_value(v))
            }
            (Values::Long(column), _) => integer(&value).map(|v| column.append_value(v)),
            (Values::Float(column), _) => {
                number(&value).map(|v| v as f32).filter(|v| v.is_finite()).map(|v| column.append_value(v))
            }
            (Values::Double(column), _) => number(&value).map(|v| column.append_value(v)),
            (Values::Boolean(column), Value::Bool(v)) => Some(*v).map(|v| column.append_value(v)),
            (Values::Timestamp(column), Value::Text(text)) => parse_time(text).map(|v| column.append_value(v)),
            (Values::Timestamp(column), Value::Integer(v)) => time_from_millis(*v).map(|v| column.append_value(v)),
            _ => None,
        };
        self.filled = fits.is_some();
        self.filled
    }

    fn end_row(&mut self) {
        if !std::mem::take(&mut self.filled) {
            match &mut self.values {
                Values::String(column) => column.append_null(),
                Values::Int(column) => column.append_null(),
                Values::Long(column) => column.append_null(),
                Values::Float(column) => column.append_null(),
                Values::Double(column) => column.append_null(),
                Values::Boolean(column) => column.append_null(),
                Values::Timestamp(column) => column.append_null(),
            }
        }
    }

    fn text_bytes(&self) -> usize {
        match &self.values {
            Values::String(column) => column.values_slice().len(),
            _ => 0,
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::String(column) => Arc::new(column.finish()),
            Values::Int(column) => Arc::new(column.finish()),
            Values::Long(column) => Arc::new(column.finish()),
            Values::Float(column) => Arc::new(column.finish()),
            Values::Double(column) => Arc::new(column.finish()),
            Values::Boolean(column) => Arc::new(column.finish()),
            Values::Timestamp(column) => Arc::new(column.finish()),
        }
    }
}

/// An integer, also when it is written as `3.0`; not beyond what a double holds exactly.
fn integer(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Integer(v) => Some(*v),
        Value::Float(v) if v.fract() == 0.0 && v.abs() <= 9_007_199_254_740_992.0 => Some(*v as i64),
        _ => None,
    }
}

/// Any number. Integers beyond 2^53 do not fit: a double would change them.
fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Integer(v) if v.unsigned_abs() <= 1 << 53 => Some(*v as f64),
        Value::Float(v) => Some(*v),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
