//! kill -9 of everything in one process, again and again, while devices post, a compactor merges and an analyst counts.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::process::Place;
use crate::support::reader::Reader;
use crate::support::table::Table;
use crate::support::{PATIENCE, wait_for};
use std::time::Duration;

const FILES_REPLACED: &str = "lakehose_compactor_files_replaced_total";

#[test]
fn kill_9_loses_nothing_and_doubles_nothing() {
    let place = Place::new(Config { flush_every: "300ms", ..Config::new("crashes") });
    let size = Size { devices: 20, events_per_device: 10_000, batch: 50, pause: Duration::from_millis(80) };
    let mut up = place.start("up");
    let url = up.table(&place.config.dataset);
    let reader = Reader::start(url.clone());
    let fleet = Fleet::start(up.gateway(), size, 0);
    for killed_at in [20_000, 65_000, 110_000, 160_000] {
        fleet.wait_for(killed_at);
        up.kill();
        up = place.start("up");
        fleet.go_to(up.gateway());
    }
    let ledger = fleet.finish();
    wait_for("files merged since the last start", PATIENCE, || (up.metric(FILES_REPLACED) > 0.0).then_some(()));
    up.stop();
    let seen = reader.stop();
    println!("{} events sent again; the reader: {seen:?}", ledger.retried());
    Table::new(url).assert_is(&ledger, place.path());
    assert_eq!(ledger.acknowledged(), size.total());
    assert!(seen.grew > 5 && seen.holes <= ledger.spare_attempts(), "{seen:?}");
}
