//! `lakehose keys ls`: which keys there are. Never a secret, which is nowhere, nor its hash.

use super::args::Ls;
use super::file;
use crate::print::{self, in_one_line};
use chrono::Utc;
use ingest::auth::Devices;
use ingest::auth::keys::{Key, State};
use lake::event::format_time;
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

pub fn run(args: &Ls, path: &Path) -> anyhow::Result<()> {
    let keys = file::read_existing(path)?;
    let mut out = io::stdout().lock();
    print::to_stdout(show(&keys, args.json, Utc::now().timestamp_micros(), &mut out).and_then(|()| out.flush()))
}

fn show(keys: &[Key], as_json: bool, now: i64, out: &mut impl Write) -> io::Result<()> {
    if as_json {
        return keys.iter().try_for_each(|key| writeln!(out, "{}", json(key, now)));
    }
    let width = keys.iter().map(|key| key.name.len()).max().unwrap_or_default().max("name".len());
    writeln!(out, "{:<width$}  {:<12}  {:<7}  {:<20}  {:<20}  may post", "name", "id", "state", "created", "expires")?;
    for key in keys {
        let Key { id, name, .. } = key;
        let time = |time: Option<i64>, none: &str| time.map_or_else(|| none.to_owned(), format_time);
        let (created, expires) = (time(key.created, "?"), time(key.expires, "never"));
        let (state, scope) = (state(key, now), in_one_line(&scope(key)));
        writeln!(out, "{name:<width$}  {id:<12}  {state:<7}  {created:<20}  {expires:<20}  {scope}")?;
    }
    Ok(())
}

fn json(key: &Key, now: i64) -> serde_json::Value {
    let (device, prefix) = match &key.scope.devices {
        Devices::Any => (None, None),
        Devices::Only(device) => (Some(device), None),
        Devices::Prefix(prefix) => (None, Some(prefix)),
    };
    json!({
        "name": *key.name,
        "id": key.id,
        "state": state(key, now),
        "datasets": key.scope.datasets.as_deref(),
        "device": device.map(|device| &**device),
        "device_prefix": prefix.map(|prefix| &**prefix),
        "created": key.created.map(format_time),
        "expires": key.expires.map(format_time),
        "revoked": key.revoked.map(format_time),
    })
}

fn state(key: &Key, now: i64) -> &'static str {
    match key.state(now) {
        State::Active => "active",
        State::Expired => "expired",
        State::Revoked => "revoked",
    }
}

fn scope(key: &Key) -> String {
    let datasets = match key.scope.datasets.as_deref() {
        None => "to all datasets".to_owned(),
        Some([]) => "to no dataset".to_owned(),
        Some(datasets) => format!("to {}", datasets.join(", ")),
    };
    match &key.scope.devices {
        Devices::Any => datasets,
        Devices::Only(device) => format!("{datasets}, for the device {device}"),
        Devices::Prefix(prefix) => format!("{datasets}, for devices {prefix}…"),
    }
}
