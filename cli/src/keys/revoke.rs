//! `lakehose keys revoke`: notes in the file that a key is good no more. It stays there, so that failures can be told
//! from guesses, and its name in old logs explained.

use super::args::Revoke;
use super::file::Locked;
use anyhow::{Context, bail};
use chrono::Utc;
use ingest::auth::keys::Key;
use lake::event::format_time;
use std::path::Path;
use toml_edit::{Item, Table, value};

pub fn run(args: &Revoke, path: &Path) -> anyhow::Result<()> {
    let mut file = Locked::open(path)?.must_exist()?;
    let key = choose(&file.keys, &args.key, path)?;
    let (name, id) = (key.name.to_string(), key.id.clone());
    if let Some(revoked) = key.revoked {
        println!("the key {name} ({id}) was revoked at {}", format_time(revoked));
        return Ok(());
    }
    let now = Utc::now().timestamp_micros();
    let is_it = |table: &&mut Table| table.get("id").and_then(Item::as_str) == Some(id.as_str());
    let table = file.tables()?.iter_mut().find(is_it).context("the key is not where it was")?;
    table.insert("revoked", value(format_time(now - now % 1_000_000)));
    file.replace()?;
    println!("revoked the key {name} ({id}); gateways that read {} refuse it within two seconds", path.display());
    Ok(())
}

/// The key of this id, or the one of this name that is not revoked.
fn choose<'a>(keys: &'a [Key], wanted: &str, path: &Path) -> anyhow::Result<&'a Key> {
    if let Some(key) = keys.iter().find(|key| key.id == wanted) {
        return Ok(key);
    }
    let named = || keys.iter().filter(|key| *key.name == *wanted);
    let good: Vec<&Key> = named().filter(|key| key.revoked.is_none()).collect();
    match good.as_slice() {
        [key] => Ok(key),
        [] => named()
            .next_back()
            .with_context(|| format!("there is no key {wanted} in {}: `lakehose keys ls` lists them", path.display())),
        several => {
            let ids: Vec<&str> = several.iter().map(|key| key.id.as_str()).collect();
            bail!("several keys are called {wanted}: say which id is meant, of {}", ids.join(", "))
        }
    }
}
