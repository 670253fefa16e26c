//! Environment variables over the file: `LAKEHOSE_<SECTION>_<FIELD>`.
//!
//! A value is read as TOML where that gives the type that the setting has (`8`, `true`, `{ burst = 100 }`), else as
//! text. A variable of a known section that is no setting of it is a mistake; any other `LAKEHOSE_` variable may belong
//! to somebody else and is only reported.

use super::{Config, file};
use anyhow::anyhow;
use toml::{Table, Value};

const PREFIX: &str = "LAKEHOSE_";

/// Sections that variables can set fields of.
pub const SECTIONS: [&str; 11] =
    ["datasets", "auth", "limits", "ingest", "tls", "spill", "flush", "memory", "compaction", "kafka", "eventlog"];

/// Variables of options of the command line, which reads them itself.
pub const OPTIONS: [&str; 9] =
    ["CONFIG", "DATA", "LAKE", "LISTEN", "ADMIN", "INSECURE", "LOG", "LOG_FORMAT", "BENCH_KEY"];

/// Merges `variables` into `settings`. Answers the names of variables that nobody knows.
pub fn apply(settings: &mut Table, variables: impl Iterator<Item = (String, String)>) -> anyhow::Result<Vec<String>> {
    let mut unknown = Vec::new();
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        if OPTIONS.contains(&name) || is_from_kubernetes(name) || is_of_the_tests(name) {
            continue;
        }
        match setting(name) {
            Some((section, field)) => set(settings, section, &field, &value)
                .map_err(|what| anyhow!("environment variable {variable}: {what}"))?,
            None => unknown.push(variable),
        }
    }
    Ok(unknown)
}

/// `FLUSH_EVERY` is the field `every` of `flush`.
fn setting(name: &str) -> Option<(&'static str, String)> {
    let name = name.to_ascii_lowercase();
    SECTIONS.iter().find_map(|section| {
        let field = name.strip_prefix(section)?.strip_prefix('_')?;
        Some((*section, field.to_owned()))
    })
}

/// Kubernetes describes every service of a namespace to every pod, so a service called `lakehose-ingest` gives
/// `LAKEHOSE_INGEST_SERVICE_HOST` and the like.
fn is_from_kubernetes(name: &str) -> bool {
    let ends = |end: &str| name == end || name.ends_with(&format!("_{end}"));
    let holds = |part: &str| format!("_{name}").contains(part);
    ends("SERVICE_HOST")
        || holds("_SERVICE_PORT")
        || ends("PORT")
        || (holds("_PORT_") && (holds("_TCP") || holds("_UDP")))
}

/// What this project's own scripts tell its tests.
fn is_of_the_tests(name: &str) -> bool {
    name == "CACHE" || name.starts_with("TEST_")
}

fn set(settings: &mut Table, section: &str, field: &str, value: &str) -> Result<(), String> {
    let text = Value::String(value.to_owned());
    let Some(typed) = as_toml(value) else {
        return put(settings, section, field, text);
    };
    // A text that looks like a number is still a text to a setting that wants one.
    put(settings, section, field, typed).or_else(|first| put(settings, section, field, text).map_err(|_| first))
}

fn as_toml(value: &str) -> Option<Value> {
    format!("value = {value}").parse::<Table>().ok()?.remove("value")
}

/// Puts the value in its place if the configuration is then still well formed.
fn put(settings: &mut Table, section: &str, field: &str, value: Value) -> Result<(), String> {
    let mut changed = settings.clone();
    let table = changed.entry(section).or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(table) = table else { return Err(format!("{section} is not a section")) };
    table.insert(field.to_owned(), value);
    serde_path_to_error::deserialize::<_, Config>(Value::Table(changed.clone()))
        .map_err(|err| file::explain(err.inner(), Some(&err.path().to_string())))?;
    *settings = changed;
    Ok(())
}
