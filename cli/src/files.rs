//! `lakehose files`: the files that make up one version of a table, for engines that do not read Delta.

use crate::args;
use crate::config::Config;
use crate::tables;
use anyhow::{Context, bail};
use lake::file::DataFile;
use lake::state::Keep;
use serde_json::json;
use std::io::{self, BufWriter, ErrorKind, Write};

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
    match print(files, args.json, &mut BufWriter::new(io::stdout().lock())) {
        // The reader of a pipe has seen enough.
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("print the files"),
    }
}

fn print<'a>(
    files: impl Iterator<Item = (String, &'a DataFile)>,
    as_json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    if !as_json {
        writeln!(out, "{:<10}  {:<8}  {:>12}  {:>14}  url", "date", "kind", "rows", "bytes")?;
    }
    for (url, file) in files {
        let (date, kind, rows, bytes) = (file.date, file.kind().as_str(), file.rows(), file.size);
        if as_json {
            writeln!(out, "{}", json!({"url": url, "date": date, "kind": kind, "rows": rows, "bytes": bytes}))?;
        } else {
            writeln!(out, "{:<10}  {kind:<8}  {rows:>12}  {bytes:>14}  {url}", date.to_string())?;
        }
    }
    out.flush()
}
