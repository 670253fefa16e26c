//! Opens the lake and its tables.

use crate::config::Config;
use anyhow::{Context, bail};
use lake::dataset::{Dataset, DatasetSpec, dead_table};
use lake::schema;
use lake::store::{Lake, StoreError};
use lake::table::Table;

/// Opens the lake for writing, and finds out whether it can be reached.
pub async fn open_lake(config: &Config) -> anyhow::Result<Lake> {
    open_with(config, Lake::open).await
}

/// Opens the lake for reading, and finds out whether it can be reached. Creates nothing.
pub async fn open_existing_lake(config: &Config) -> anyhow::Result<Lake> {
    open_with(config, Lake::open_existing).await
}

async fn open_with(config: &Config, open: fn(&str) -> Result<Lake, StoreError>) -> anyhow::Result<Lake> {
    let location = config.lake_location();
    let hint = match &config.lake {
        None => "choose another directory with --data, or another place with --lake",
        Some(url) if url.starts_with("s3:") => {
            "check --lake, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, unless it is AWS, AWS_ENDPOINT_URL"
        }
        Some(_) => "choose another place with --lake",
    };
    let lake = open(&location).with_context(|| format!("cannot use the lake ({hint})"))?;
    lake.probe().await.with_context(|| format!("cannot reach the lake ({hint})"))?;
    Ok(lake)
}

/// URL of the S3 store when it is not AWS, from the variables that the lake reads.
pub fn endpoint() -> Option<String> {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(|name| std::env::var(name).ok())
}

/// Makes the tables that are not there yet, gives the others the columns that they lack, and refuses those that contradict
/// the declarations.
pub async fn prepare(lake: &Lake, datasets: &[Dataset]) -> anyhow::Result<()> {
    for dataset in datasets {
        let dead = dead_table(&dataset.name);
        for (name, schema) in [(dataset.name.as_str(), schema::events(dataset)), (dead.as_str(), schema::dead())] {
            let table = Table::open_or_create(lake, name, schema).await;
            table.with_context(|| format!("cannot use the table {name}"))?;
        }
    }
    Ok(())
}

/// Opens an existing table for reading, by its name: that of a dataset, of its dead letters, or of their replays.
pub async fn open_table(config: &Config, lake: &Lake, name: &str) -> anyhow::Result<Table> {
    let schema = match name.rsplit_once("__") {
        Some((_, "dead")) => schema::dead(),
        Some((_, "dead_replays")) => schema::dead_replays(),
        // What the table says wins over what the configuration declares: reading needs no declaration.
        _ => schema::events(&Dataset::new(name, DatasetSpec::default())?),
    };
    let table = Table::open(lake, name, schema).await.with_context(|| format!("cannot open the table {name}"))?;
    let Some(table) = table else {
        bail!(
            "there is no table at {} (datasets of the configuration: {}; check the name and --lake)",
            lake.table_url(name),
            names(&config.datasets()?)
        );
    };
    Ok(table)
}

/// What to say of a name that is no dataset's.
pub fn no_dataset(name: &str, known: &[Dataset]) -> String {
    format!("there is no dataset {name} (datasets of the configuration: {})", names(known))
}

fn names(datasets: &[Dataset]) -> String {
    datasets.iter().map(|dataset| dataset.name.as_str()).collect::<Vec<_>>().join(", ")
}
