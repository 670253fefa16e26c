//! Analysts ask without a pause, each in an engine of their own, while processors append, two compactors merge, one of
//! them is killed, somebody deletes the rows of a device, and what left the table is deleted.

mod engine;
mod analyst;

use crate::support::config::Config;
use crate::support::device::Device;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::Topic;
use crate::support::process::{Lakehose, Place};
use crate::support::servers;
use crate::support::table::Table;
use crate::support::{PATIENCE, wait_for};
use analyst::{Analyst, ERASED};
use engine::Engine;
use std::time::{Duration, Instant};

const REPLACED: &str = "lakehose_compactor_files_replaced_total";
const DELETED: &str = "lakehose_compactor_files_deleted_total";
const FAILED: &str = "lakehose_compactor_jobs_failed_total";
const LOST: &str = "lakehose_compactor_races_lost_total";

/// What was merged is deleted as soon as no query of these can hold it, on a machine that is busy with other tests.
const KEEP_REMOVED: Duration = Duration::from_secs(25);

/// Whatever there is, is merged at once.
fn place() -> Place {
    let mut config = Config { brokers: Some(servers::kafka()), compact_every: "200ms", ..Config::new("merged") };
    config.cold_after = "0s";
    config.lake = Some(servers::s3_lake(&config.dataset));
    Place::new(config)
}

fn compactor(place: &Place) -> Lakehose {
    let keep_removed = format!("{}s", KEEP_REMOVED.as_secs());
    let swept_soon = [
        ("LAKEHOSE_COMPACTION_KEEP_REMOVED", keep_removed.as_str()),
        ("LAKEHOSE_COMPACTION_KEEP_ORPHANS", "10m"),
        ("LAKEHOSE_COMPACTION_COMMIT_WITHIN", "5m"),
    ];
    place.try_start("compactor", &swept_soon).unwrap_or_else(|said| panic!("{said}"))
}

#[test]
fn readers_see_every_event_once_all_the_time_while_files_are_merged_and_deleted() {
    let place = place();
    let dataset = &place.config.dataset;
    let processors = [place.start("processor"), place.start("processor")];
    let mut compactors = vec![compactor(&place), compactor(&place)];
    let ingest = place.start("ingest");
    let url = processors[0].table(dataset);
    let size = Size { devices: 12, events_per_device: 100_000, batch: 20, pause: Duration::from_millis(100) };
    let fleet = Fleet::start(ingest.gateway(), size, 0);
    let mut table = Table::new(url.clone());

    let erased = Size { devices: 1, events_per_device: 600, pause: Duration::ZERO, ..size };
    let erased = Fleet::start(ingest.gateway(), erased, ERASED);

    let duckdb = Analyst::start(Engine::duckdb(&url));
    fleet.wait_for(2_000);
    let others = [Analyst::start(Engine::polars(&url)), Analyst::start(Engine::deltalake(&url))];
    wait_until_all_merge(&place, &mut compactors);
    let have_grown = |least| duckdb.grew() >= least && others.iter().all(|other| other.grew() >= least);
    wait_for("every engine has seen events come", PATIENCE, || have_grown(5).then_some(()));
    erase(&place, erased, &mut table);
    compactors.remove(0).kill();
    compactors.push(compactor(&place));
    wait_for("every engine has seen more of them", PATIENCE, || have_grown(10).then_some(()));
    for other in others {
        println!("{:?}", other.stop());
    }
    wait_for("files are deleted", PATIENCE, || (sum(&compactors, DELETED) > 10.0).then_some(()));
    wait_until_all_merge(&place, &mut compactors);

    let ledger = fleet.stop();
    Topic::new(&servers::kafka(), dataset).wait_until_no_lag();
    println!("{:?}", duckdb.stop());
    for series in [REPLACED, DELETED, LOST, FAILED] {
        println!("{series}: {}", sum(&compactors, series));
    }
    assert_eq!(sum(&compactors, FAILED), 0.0);
    ingest.stop_all(processors.into_iter().chain(compactors));
    table.assert_events(&ledger, place.path());
}

/// Which dates a compactor gets is drawn by lot when it starts, and there are few: one that gets none gives way to
/// another.
fn wait_until_all_merge(place: &Place, compactors: &mut [Lakehose]) {
    const LONG_ENOUGH: Duration = Duration::from_secs(10);
    let idle = |compactor: &Lakehose| compactor.metric(REPLACED) == 0.0;
    let mut since = Instant::now();
    wait_for("every compactor merges", PATIENCE, || {
        let Some(without_work) = compactors.iter().position(idle) else { return Some(()) };
        if since.elapsed() > LONG_ENOUGH {
            std::mem::replace(&mut compactors[without_work], compactor(place)).kill();
            since = Instant::now();
        }
        None
    });
}

/// Deletes all rows of the device, which are there.
fn erase(place: &Place, device: Fleet, table: &mut Table) {
    let events = device.finish().acknowledged();
    let condition = format!("device_id = '{}'", Device::name_of(ERASED));
    let sql = format!("SELECT count(*) FROM {} WHERE {condition}", table.scan());
    wait_for("all rows of the device", PATIENCE, || (table.duckdb.number(&sql) as u64 == events).then_some(()));
    let (code, said) = place.run(&["delete", &place.config.dataset, "--where", &condition, "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(table.duckdb.number(&sql), 0);
}

fn sum(compactors: &[Lakehose], series: &str) -> f64 {
    compactors.iter().map(|compactor| compactor.metric(series)).sum()
}
