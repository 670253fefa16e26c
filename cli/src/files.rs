//! `lakehose files`: the files that make up one version of a table, for engines that do not read Delta.

use crate::args;
use crate::config::Config;
use crate::print;
use crate::tables;
use anyhow::{Context, bail};
use lake::file::DataFile;
use lake::state::Keep;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};

/// Prints them, by date and path.
pub async fn run(args: &args::Files, config: &Config) -> anyhow::Result<()> {
    let lake = tables::open_existing_lake(config).await?;
    let table = tables::open_table(config, &lake, &args.dataset).await?;
    let mut state = table.load(Keep::Files, &[]).await.with_context(|| format!("cannot read {}", args.dataset))?;
    if let Some(version) = args.version.filter(|version| *version != state.version) {
        if version > state.version {
            bail!("there is no version {version} of {} yet: --version may be up to {}", args.dataset, state.version);
        }
        let older = table.load_version(Some(version), Keep::Files, &[]).await;
        state = older.with_context(|| format!("cannot read version {version} of {} any more", args.dataset))?;
    }
    let files = state.files().values().map(|file| (format!("{}/{}", table.url(), file.path), file.as_ref()));
    print::to_stdout(show(files, args.json, &mut BufWriter::new(io::stdout().lock())))
}

fn show<'a>(
    files: impl Iterator<Item = (String, &'a DataFile)>,
    as_json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    if !as_json {
        writeln!(
            out,
            "{:<10}  {:<8}  {:>12}  {:>14}  url  range of the first sort column",
            "date", "kind", "rows", "bytes"
        )?;
    }
    let mut all = (0u64, 0u64, 0u64);
    for (url, file) in files {
        let (date, kind, rows, bytes) = (file.date, file.kind().as_str(), file.rows(), file.size);
        let (column, low, high) = range(file);
        all = (all.0 + 1, all.1 + rows, all.2 + bytes);
        if as_json {
            let line = json!({
                "url": url, "date": date, "kind": kind, "rows": rows, "bytes": bytes, "sort_column": column, "min": low,
                "max": high,
            });
            writeln!(out, "{line}")?;
        } else {
            let range = match (column, low, high) {
                (Some(column), Some(low), Some(high)) => format!("  {column} {low} to {high}"),
                _ => String::new(),
            };
            writeln!(out, "{:<10}  {kind:<8}  {rows:>12}  {bytes:>14}  {url}{range}", date.to_string())?;
        }
    }
    if !as_json {
        let (files, rows, bytes) = all;
        writeln!(out, "{:<10}  {:<8}  {rows:>12}  {bytes:>14}  files: {files}", "total", "")?;
    }
    out.flush()
}

/// The first column that the rows are sorted by, and between what it lies, as far as that is known.
fn range(file: &DataFile) -> (Option<&str>, Option<&Value>, Option<&Value>) {
    let Some(column) = file.sorted_by.first() else { return (None, None, None) };
    (Some(column), file.stats.min.get(column), file.stats.max.get(column))
}
