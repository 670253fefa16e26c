//! `lakehose check`: whether the configuration is sound, and the log and the lake can be reached.

use crate::config::Config;
use crate::failure::in_one_line;
use crate::log;
use crate::tables;
use anyhow::{Context, bail};
use ingest::auth::Auth;
use lake::dataset::Dataset;
use lake::schema;
use lake::state::Keep;
use lake::store::{Lake, StoreError};
use lake::table::Table;

/// Prints one finding a line; fails if one of them is bad. Makes no topics and no tables.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let mut bad = 0;
    let mut report = |what: &str, found: anyhow::Result<String>| match found {
        Ok(detail) => println!("ok    {what}: {detail}"),
        Err(err) => {
            bad += 1;
            println!("FAIL  {what}: {}", in_one_line(&err));
        }
    };
    // It was loaded, so it is sound.
    let datasets = config.datasets()?;
    let names: Vec<&str> = datasets.iter().map(|dataset| dataset.name.as_str()).collect();
    report("configuration", Ok(format!("datasets {}", names.join(", "))));
    if config.tls.is_on() {
        report("tls", config.tls.try_out().map(|()| "certificate and key are a pair".into()).map_err(Into::into));
    }
    if config.auth.is_on() {
        report("keys", read_keys(config));
    }
    report("log", reach_log(config).await);
    match tables::open_existing_lake(config).await {
        Ok(lake) => {
            report("lake", Ok(lake.url().to_string()));
            for dataset in &datasets {
                report(&format!("table {}", dataset.name), look_at(&lake, dataset).await);
            }
        }
        Err(err) if is_missing(&err) => {
            report("lake", Ok(format!("{} is not there yet, made by the first start", config.lake_location())));
        }
        Err(err) => report("lake", Err(err)),
    }
    match bad {
        0 => Ok(()),
        1 => bail!("one check failed, see above"),
        _ => bail!("{bad} checks failed, see above"),
    }
}

/// Whether the lake is a directory that nobody has made yet.
fn is_missing(err: &anyhow::Error) -> bool {
    let missing = |err: &StoreError| match err {
        StoreError::Directory { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    };
    err.downcast_ref::<StoreError>().is_some_and(missing)
}

fn read_keys(config: &Config) -> anyhow::Result<String> {
    let auth = Auth::open(&config.auth)?.context("[auth] names no file")?;
    Ok(format!("{} of devices, {} that sign tokens", auth.keys(), auth.signers()))
}

async fn reach_log(config: &Config) -> anyhow::Result<String> {
    let place = log::place(config);
    // A running process has the embedded log to itself.
    if let log::Place::Kafka { .. } = place {
        log::open(config, &[]).await?.close().await?;
    }
    Ok(place.to_string())
}

async fn look_at(lake: &Lake, dataset: &Dataset) -> anyhow::Result<String> {
    let Some(table) = Table::open(lake, &dataset.name, schema::events(dataset)).await? else {
        return Ok("not there yet, made by the first start".into());
    };
    let state = table.load(Keep::Txns, &[]).await?;
    let merged = table.merged(&state)?;
    match merged.changes_table() {
        true => Ok(format!("version {}; the next start changes its columns: {}", state.version, merged.describe())),
        false => Ok(format!("version {}", state.version)),
    }
}
