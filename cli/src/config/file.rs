//! Reads `lakehose.toml`, and says in which line a mistake is.

use super::Config;
use anyhow::{Context, anyhow};
use std::path::Path;

/// Reads a file and checks it on its own, while lines are still known.
pub fn read(path: &Path) -> anyhow::Result<toml::Table> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {name} (--config)"))?;
    parse(&text).map_err(|Mistake { line, what }| anyhow!("{name} line {line}: {what}"))
}

/// Something in the file that cannot be.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    pub line: usize,
    pub what: String,
}

/// The settings of a file, in the order in which they are written.
pub fn parse(text: &str) -> Result<toml::Table, Mistake> {
    let mistake = |err: &toml::de::Error, setting: Option<&str>| Mistake {
        line: line_of(text, err.span().map_or(0, |span| span.start)),
        what: explain(err, setting),
    };
    let settings: toml::Table = text.parse().map_err(|err| mistake(&err, None))?;
    let document = toml::Deserializer::parse(text).map_err(|err| mistake(&err, None))?;
    serde_path_to_error::deserialize::<_, Config>(document)
        .map_err(|err| mistake(err.inner(), Some(&err.path().to_string())))?;
    Ok(settings)
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

/// One sentence: the setting, what is wrong, and what is allowed.
pub fn explain(err: &toml::de::Error, setting: Option<&str>) -> String {
    let message = err.message().split_whitespace().collect::<Vec<_>>().join(" ");
    // What libraries say of their types, in words that help to write one.
    let message = message
        .replace("expected a duration", "expected a duration such as \"5s\", \"10m\" or \"7d\"")
        .replace("expected parsable string", "expected a size such as \"64MiB\"")
        .replace("expected an integer or string", "expected a size such as \"64MiB\"");
    let message = match message.split_once("expected struct ") {
        Some((before, "LimitSpec")) => format!("{before}expected {{ events_per_second = 100, burst = 1000 }}"),
        Some((before, _)) => format!("{before}expected a table of settings"),
        None => message,
    };
    match setting {
        Some(setting) if setting != "." => format!("{setting}: {message}"),
        _ => message,
    }
}
