//! kill -9 of everything in one process, again and again, while devices post, a compactor merges and an analyst counts.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::process::Place;
use crate::support::reader::Reader;
use crate::support::table::Table;
use crate::support::{PATIENCE, wait_for};
use std::time::Duration;

const DUPLICATES: &str = "lakehose_processor_duplicates_total";
const FILES_REPLACED: &str = "lakehose_compactor_files_replaced_total";

#[test]
fn a_batch_sent_again_after_kill_9_is_in_the_table_once() {
    let place = Place::new(Config { flush_every: "300ms", ..Config::new("again") });
    let size = Size { devices: 3, events_per_device: 100, batch: 50, pause: Duration::ZERO };
    let mut up = place.start("up");
    let mut table = Table::new(up.table(&place.config.dataset));
    let ledger = Fleet::start(up.gateway(), size, 0).finish();
    wait_for("everything in the table", PATIENCE, || (table.count() == size.total()).then_some(()));
    up.kill();
    up = place.start("up");
    Fleet::start(up.gateway(), size, 0).finish();
    wait_for("duplicates found", PATIENCE, || (up.metric(DUPLICATES) == size.total() as f64).then_some(()));
    up.stop();
    assert_eq!(table.count(), size.total());
    assert_eq!(ledger.acknowledged(), size.total());
}

#[test]
fn kill_9_loses_nothing_and_doubles_nothing() {
    let place = Place::new(Config { flush_every: "300ms", cold_after: "0s", ..Config::new("crashes") });
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
