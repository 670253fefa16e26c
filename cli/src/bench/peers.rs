//! Programs that are measured in a process of their own, and the tables that they are given.

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Runs a program that says one thing, as JSON. What it complains about goes to our stderr.
pub async fn ask<T: DeserializeOwned>(command: &mut Command) -> anyhow::Result<T> {
    let program = command.as_std().get_program().display().to_string();
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let child = started.with_context(|| format!("cannot run {program}"))?;
    let output = child.wait_with_output().await.with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{program} did not say what it took"))
}

/// A copy of a table for a program that changes it. Data files are never changed, so they are not copied but linked.
pub fn copy_table(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (source, target) = (entry?.path(), to);
        let Some(target) = source.file_name().map(|name| target.join(name)) else { continue };
        if source.is_dir() {
            copy_table(&source, &target)?;
        } else if from.ends_with("_delta_log") || std::fs::hard_link(&source, &target).is_err() {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
