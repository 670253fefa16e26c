//! What may be written after `--where`, and what it means.
//!
//! It is SQL, read by a parser of SQL, of which few forms are taken; every other is refused with what is possible. What
//! cannot be undone must never mean more than what was written, so nothing is guessed: a time needs its zone, nothing is
//! rounded, and comments, which may hide a condition, are refused.

use super::predicate::{Predicate, Span, TEXTS, TIME, cut};
use chrono::{DateTime, Datelike, NaiveDate};
use lake::schema::PARTITION_COLUMN;
use sqlparser::ast::{BinaryOperator, DataType, Expr, Ident, TypedString, Value, ValueWithSpan};
use sqlparser::dialect::AnsiDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};
use std::collections::BTreeSet;
use std::str::FromStr;

/// A clause that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{problem}; possible are conditions joined by AND: device_id, id or type = 'x' or IN ('x', 'y'), and time or date =, \
     <, <=, >, >= or BETWEEN '2026-11-22' or, for time, '2026-11-22T08:00:00Z'"
)]
pub struct Refused {
    problem: String,
}

fn refused(problem: impl AsRef<str>) -> Refused {
    Refused { problem: cut(problem.as_ref(), PROBLEM) }
}

/// Bytes of what is wrong that are told: a list may have a hundred thousand values.
const PROBLEM: usize = 300;

impl FromStr for Predicate {
    type Err = Refused;

    fn from_str(written: &str) -> Result<Predicate, Refused> {
        let mut predicate = Predicate { written: written.to_owned(), ..Predicate::default() };
        // Not recursive: a chain of thousands of conditions is as deep as it is long.
        let whole = parse(written)?;
        let mut conditions = vec![&whole];
        while let Some(condition) = conditions.pop() {
            match condition {
                Expr::Nested(inside) => conditions.push(inside),
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => conditions.extend([&**right, &**left]),
                one => predicate.restrict(condition_of(one)?),
            }
        }
        Ok(predicate)
    }
}

fn parse(written: &str) -> Result<Expr, Refused> {
    let dialect = AnsiDialect {};
    let tokens = Tokenizer::new(&dialect, written).tokenize();
    let tokens = tokens.map_err(|error| refused(format!("the condition cannot be read: {error}")))?;
    let is_comment = |token: &Token| {
        let Token::Whitespace(space) = token else { return false };
        !matches!(space, Whitespace::Space | Whitespace::Newline | Whitespace::Tab)
    };
    if tokens.iter().any(is_comment) {
        return Err(refused("the condition has a comment"));
    }
    let unreadable = |error| match error {
        ParserError::TokenizerError(problem) | ParserError::ParserError(problem) => {
            refused(format!("the condition cannot be read: {problem}"))
        }
        ParserError::RecursionLimitExceeded => refused("the condition has too many parentheses"),
    };
    let mut parser = Parser::new(&dialect).with_tokens(tokens);
    if parser.parse_keyword(Keyword::WHERE) {
        return Err(refused("the condition begins after the word WHERE"));
    }
    let whole = parser.parse_expr().map_err(unreadable)?;
    match parser.next_token().token {
        Token::EOF => Ok(whole),
        rest => Err(refused(format!("there is more after the condition, from `{rest}` on"))),
    }
}

/// One condition: a column, and what it must be.
enum Condition {
    Text(&'static str, BTreeSet<String>),
    Time(Span),
    Date(Span),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Text(&'static str),
    Time,
    Date,
}

impl Predicate {
    /// Makes it hold also this.
    fn restrict(&mut self, condition: Condition) {
        let narrow = |known: &mut Option<Span>, span: Span| {
            let known = known.get_or_insert_with(|| span.clone());
            *known = *known.start().max(span.start())..=*known.end().min(span.end());
        };
        match condition {
            Condition::Text(column, values) => {
                self.texts
                    .entry(column)
                    .and_modify(|known| known.retain(|value| values.contains(value)))
                    .or_insert(values);
            }
            Condition::Time(span) => narrow(&mut self.time, span),
            Condition::Date(span) => narrow(&mut self.date, span),
        }
    }
}

fn condition_of(condition: &Expr) -> Result<Condition, Refused> {
    match condition {
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => alternatives(condition),
        Expr::BinaryOp { left, op, right } => match (column(left)?, column(right)?) {
            (Some(column), None) => compare(column, op, right),
            (None, Some(column)) => compare(column, &turned(op), left),
            _ => Err(refused(format!("{condition} does not compare a column with a value"))),
        },
        Expr::InList { expr, list, negated: false } => match column(expr)? {
            Some(Column::Text(name)) => Ok(Condition::Text(name, list.iter().map(text).collect::<Result<_, _>>()?)),
            _ => Err(refused(format!("{expr} IN is not possible"))),
        },
        Expr::Between { expr, negated: false, low, high } => match column(expr)? {
            Some(Column::Time) => Ok(Condition::Time(time(low)?..=time(high)?)),
            Some(Column::Date) => Ok(Condition::Date(date(low)?..=date(high)?)),
            _ => Err(refused(format!("{expr} BETWEEN is not possible"))),
        },
        other => Err(refused(format!("{other} is not possible"))),
    }
}

/// `OR` of equalities of one column: it is one of several values.
fn alternatives(whole: &Expr) -> Result<Condition, Refused> {
    let mut found: Option<(&'static str, BTreeSet<String>)> = None;
    let mut open = vec![whole];
    while let Some(one) = open.pop() {
        match one {
            Expr::Nested(inside) => open.push(inside),
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => open.extend([&**right, &**left]),
            // A conjunction here is one of the forms that `condition_of` refuses.
            one => match (condition_of(one)?, &mut found) {
                (Condition::Text(name, values), None) => found = Some((name, values)),
                (Condition::Text(name, values), Some((known, all))) if name == *known => all.extend(values),
                _ => return Err(refused("OR is possible between values of one of device_id, id and type")),
            },
        }
    }
    let (name, values) = found.ok_or_else(|| refused("there is no condition"))?;
    Ok(Condition::Text(name, values))
}

/// The column that is named; `None` if it is something else, an error for a column that cannot be asked for.
fn column(expr: &Expr) -> Result<Option<Column>, Refused> {
    let ident = match expr {
        Expr::Nested(inside) => return column(inside),
        Expr::Identifier(ident) => ident,
        _ => return Ok(None),
    };
    // Readers do not mind capitals in names.
    let is = |name: &str| ident.value.eq_ignore_ascii_case(name);
    let text = TEXTS.into_iter().find(|name| is(name)).map(Column::Text);
    let others = [(TIME, Column::Time), (PARTITION_COLUMN, Column::Date)].into_iter();
    let column = text.or(others.filter(|(name, _)| is(name)).map(|(_, column)| column).next());
    column.map(Some).ok_or_else(|| refused(unknown(ident)))
}

fn unknown(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => format!("{ident} is no column that can be asked for (texts stand in single quotes)"),
        None => format!("{ident} is no column that can be asked for"),
    }
}

/// The operator when its operands change places.
fn turned(op: &BinaryOperator) -> BinaryOperator {
    match op {
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        same => same.clone(),
    }
}

fn compare(column: Column, op: &BinaryOperator, value: &Expr) -> Result<Condition, Refused> {
    let span = |value: i64| match op {
        BinaryOperator::Eq => Ok(value..=value),
        BinaryOperator::Lt => Ok(i64::MIN..=value.saturating_sub(1)),
        BinaryOperator::LtEq => Ok(i64::MIN..=value),
        BinaryOperator::Gt => Ok(value.saturating_add(1)..=i64::MAX),
        BinaryOperator::GtEq => Ok(value..=i64::MAX),
        other => Err(refused(format!("the operator {other} is not possible"))),
    };
    match column {
        Column::Text(name) if *op == BinaryOperator::Eq => Ok(Condition::Text(name, [text(value)?].into())),
        Column::Text(name) => Err(refused(format!("{name} {op} is not possible"))),
        Column::Time => Ok(Condition::Time(span(time(value)?)?)),
        Column::Date => Ok(Condition::Date(span(date(value)?)?)),
    }
}

fn text(value: &Expr) -> Result<String, Refused> {
    match value {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Ok(text.clone()),
        other => Err(refused(format!("{other} is not a text in single quotes"))),
    }
}

/// Microseconds since the epoch.
fn time(value: &Expr) -> Result<i64, Refused> {
    let written = match typed(value) {
        Some((DataType::Timestamp(..), text)) => text,
        Some((DataType::Date, text)) => return Ok(day(&text)? * MICROS_OF_DAY),
        Some(_) => return Err(refused(format!("{value} is no time"))),
        None => text(value)?,
    };
    if let Ok(day) = day(&written) {
        return Ok(day * MICROS_OF_DAY);
    }
    let time = DateTime::parse_from_rfc3339(&written)
        .map_err(|_| refused(format!("'{written}' is no time with its zone (such as Z)")))?;
    if time.timestamp_subsec_nanos() % 1_000 != 0 {
        return Err(refused(format!("'{written}' is finer than the microseconds of the table")));
    }
    Ok(time.timestamp_micros())
}

/// Days since the epoch.
fn date(value: &Expr) -> Result<i64, Refused> {
    match typed(value) {
        Some((DataType::Date, text)) => day(&text),
        Some(_) => Err(refused(format!("{value} is no date"))),
        None => day(&text(value)?),
    }
}

const MICROS_OF_DAY: i64 = 86_400_000_000;

fn day(written: &str) -> Result<i64, Refused> {
    let date = written.parse::<NaiveDate>().ok().filter(|date| (1..=9999).contains(&date.year()));
    date.map(|date| i64::from(date.to_epoch_days())).ok_or_else(|| refused(format!("'{written}' is no date")))
}

/// The parts of `DATE '2026-11-22'`.
fn typed(value: &Expr) -> Option<(DataType, String)> {
    match value {
        Expr::TypedString(TypedString {
            data_type,
            value: ValueWithSpan { value: Value::SingleQuotedString(text), .. },
            uses_odbc_syntax: false,
        }) => Some((data_type.clone(), text.clone())),
        _ => None,
    }
}
