//! `lakehose keys create`: makes a key. The file gets its hash, the user the key.

use super::args::Create;
use super::file::Locked;
use crate::config::Config;
use crate::print;
use anyhow::{Context, bail};
use chrono::Utc;
use ingest::auth::Secret;
use lake::event::format_time;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::io::{self, Write};
use std::path::Path;
use toml_edit::{Array, Table, value};

pub fn run(args: &Create, config: &Config, path: &Path) -> anyhow::Result<()> {
    let mut file = Locked::open(path)?;
    if let Some(key) = file.keys.iter().find(|key| *key.name == *args.name && key.revoked.is_none()) {
        bail!("there is a key {} already ({}): take another name, or revoke it first", key.name, key.id);
    }
    let known = config.datasets()?;
    for dataset in args.datasets.iter().filter(|name| !known.iter().any(|known| known.name == **name)) {
        tracing::warn!(dataset, "dataset is not one of this configuration");
    }
    let secret = new_secret()?;
    // 48 random bits; that they are somebody's already is for the check of the new file to find out.
    file.tables()?.push(entry(args, &secret, Utc::now().timestamp_micros()));
    file.replace()?;
    // Programs take the key from standard output, so all else that there is to say goes elsewhere.
    let mut out = io::stdout().lock();
    print::to_stdout(writeln!(out, "{}", secret.reveal()).and_then(|()| out.flush()))?;
    eprintln!("made the key {} ({}) in {}; it is not shown again", args.name, secret.id(), path.display());
    if config.auth.keys.is_none() && config.auth.keys_text.is_none() {
        eprintln!("gateways ask for keys once they are told of the file: [auth] keys, or LAKEHOSE_AUTH_KEYS");
    }
    Ok(())
}

fn new_secret() -> anyhow::Result<Secret> {
    let (mut id, mut secret) = ([0; 6], [0; 32]);
    let filled = OsRng.try_fill_bytes(&mut id).and_then(|()| OsRng.try_fill_bytes(&mut secret));
    filled.context("read the system's random generator")?;
    Ok(Secret::from_entropy(id, secret))
}

fn entry(args: &Create, secret: &Secret, now: i64) -> Table {
    let mut entry = Table::new();
    entry["id"] = value(secret.id());
    entry["name"] = value(&args.name);
    entry["sha256"] = value(secret.hash().to_string());
    if !args.datasets.is_empty() {
        entry["datasets"] = value(args.datasets.iter().collect::<Array>());
    }
    for (field, text) in [("device", &args.device), ("device_prefix", &args.device_prefix)] {
        if let Some(text) = text {
            entry[field] = value(text);
        }
    }
    // People read it.
    let to_the_second = |micros: i64| value(format_time(micros - micros % 1_000_000));
    entry["created"] = to_the_second(now);
    if let Some(expires) = args.expires {
        entry["expires"] = to_the_second(expires);
    }
    entry.decor_mut().set_prefix("\n");
    entry
}
