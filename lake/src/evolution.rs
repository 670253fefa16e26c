//! Decides what becomes of a table's columns when a program comes with others than the table has. Pure.
//!
//! Programs of several configurations write to one table at once, while a new one is rolled out or taken back. So columns
//! are only ever added, and a type only ever gets wider: what files said before they still say, and a program that knows
//! less than the table goes on as it was.
//!
//! - A declared column that the table lacks is added behind the declared ones. Older files read as null there.
//! - `int` becomes `long` and `float` becomes `double`. Files keep their type, which readers widen. No other type gets
//!   wider (see `docs/adr/0005-schema-change.md`).
//! - A column that the table has wider than it is declared is written as the table has it.
//! - A column that the table has and nobody declares any more stays. New files lack it.
//! - Everything else is a [`Conflict`], which no program may settle by itself.

use crate::dataset::ColumnType;
use crate::schema::{TableSchema, Unreadable};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use std::sync::Arc;

/// A table and the columns that a program brings, brought together.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// All columns of the table: those that it has, in their order, and the new ones.
    pub table: TableSchema,
    /// What the program's files hold: its own columns, with the table's types.
    pub files: TableSchema,
    /// What is new to the table.
    pub news: Vec<News>,
}

/// A difference that the table takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Added(String),
    Widened(String),
    /// Its minimum and maximum go into the table log from now on.
    WithStats(String),
}

/// Why a program must not write to a table. Says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("{problem}, so it is another kind of table; choose another --lake or another name for the dataset")]
    Foreign { problem: String },
    #[error(
        "its column `{column}` is {found}, and {declared} is declared; declare it as {found}, or give the new column \
         another name (`from` says where its value stands), or choose another name for the dataset"
    )]
    Type { column: String, found: &'static str, declared: &'static str },
    #[error("it has a column `{found}`, which readers cannot tell from `{declared}`; declare it as `{found}`")]
    Case { found: String, declared: String },
    #[error("{0}; choose another --lake or another name for the dataset")]
    Unreadable(#[from] Unreadable),
}

/// Brings the columns of `wanted` into `table`.
pub fn merge(table: &TableSchema, wanted: &TableSchema) -> Result<Merged, Conflict> {
    let mut columns: Vec<FieldRef> = table.arrow.fields().to_vec();
    let (mut declared, mut stats, mut news) = (table.declared.clone(), table.stats.clone(), Vec::new());
    for (place, field) in wanted.arrow.fields().iter().enumerate() {
        let found = columns.iter().position(|column| column.name().eq_ignore_ascii_case(field.name()));
        match found {
            None if wanted.declared.contains(&place) => {
                columns.insert(declared.end, Arc::clone(field));
                declared.end += 1;
                news.push(News::Added(field.name().clone()));
            }
            Some(found) if wanted.declared.contains(&place) => {
                let kind = agree(&columns[found], field)?;
                if kind != *columns[found].data_type() {
                    columns[found] = Arc::new(Field::new(field.name(), kind, true));
                    news.push(News::Widened(field.name().clone()));
                }
            }
            found => expect_fixed(found.map(|found| &columns[found]), field)?,
        }
    }
    for name in wanted.stats.iter().filter(|name| !table.stats.contains(name)) {
        stats.push(name.clone());
        news.push(News::WithStats(name.clone()));
    }
    let table = TableSchema { arrow: Arc::new(Schema::new(columns)), declared, stats };
    let files = files(&table, wanted);
    Ok(Merged { table, files, news })
}

impl Merged {
    /// Whether the table log has to say something new.
    pub fn changes_table(&self) -> bool {
        !self.news.is_empty()
    }

    /// The news in a few words, for people.
    pub fn describe(&self) -> String {
        let word = |news: &News| match news {
            News::Added(name) => format!("{name} {} added", self.kind(name)),
            News::Widened(name) => format!("{name} widened to {}", self.kind(name)),
            News::WithStats(name) => format!("{name} with statistics"),
        };
        self.news.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    fn kind(&self, name: &str) -> &'static str {
        self.table.arrow.field_with_name(name).map_or("", |field| word(field.data_type()))
    }
}

/// Whether every value of `from` is one of `to`, so that a file may hold the one where the table says the other.
pub fn holds(to: &DataType, from: &DataType) -> bool {
    use DataType::{Float32, Float64, Int32, Int64};
    to == from || matches!((to, from), (Int64 | Float64, Int32) | (Float64, Float32))
}

/// The type of a column that the table has as `column` and a program as `declared`.
fn agree(column: &Field, declared: &Field) -> Result<DataType, Conflict> {
    if column.name() != declared.name() {
        return Err(Conflict::Case { found: column.name().clone(), declared: declared.name().clone() });
    }
    match (column.data_type(), declared.data_type()) {
        (found, declared) if holds(found, declared) => Ok(found.clone()),
        (DataType::Int32, DataType::Int64) => Ok(DataType::Int64),
        (DataType::Float32, DataType::Float64) => Ok(DataType::Float64),
        (found, wanted) => {
            Err(Conflict::Type { column: declared.name().clone(), found: word(found), declared: word(wanted) })
        }
    }
}

/// Columns that nobody declares are as they are, or it is not our table.
fn expect_fixed(column: Option<&FieldRef>, wanted: &Field) -> Result<(), Conflict> {
    let (name, kind) = (wanted.name(), word(wanted.data_type()));
    let problem = match column {
        Some(column) if column.name() == name && column.data_type() == wanted.data_type() => return Ok(()),
        Some(column) => format!("its column `{}` is {}, not `{name}` {kind}", column.name(), word(column.data_type())),
        None => format!("it has no column `{name}`"),
    };
    Err(Conflict::Foreign { problem })
}

/// The columns of `wanted` as `table` has them.
fn files(table: &TableSchema, wanted: &TableSchema) -> TableSchema {
    let typed = |field: &FieldRef| table.arrow.field_with_name(field.name()).unwrap_or(field).clone();
    let arrow = Schema::new(wanted.arrow.fields().iter().map(typed).collect::<Vec<_>>());
    let stats = table.stats.iter().filter(|name| wanted.has(name)).cloned().collect();
    TableSchema { arrow: Arc::new(arrow), declared: wanted.declared.clone(), stats }
}

/// A type as configurations call it.
fn word(kind: &DataType) -> &'static str {
    match ColumnType::of(kind) {
        Some(ColumnType::String) => "string",
        Some(ColumnType::Int) => "int",
        Some(ColumnType::Long) => "long",
        Some(ColumnType::Float) => "float",
        Some(ColumnType::Double) => "double",
        Some(ColumnType::Boolean) => "boolean",
        Some(ColumnType::Timestamp) => "timestamp",
        None => "binary",
    }
}

#[cfg(test)]
mod tests;
