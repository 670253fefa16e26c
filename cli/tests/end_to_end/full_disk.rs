//! The disk of a local lake is full, and then it is not.

use crate::support::config::Config;
use crate::support::fleet::{Fleet, Size};
use crate::support::kafka::Topic;
use crate::support::process::Place;
use crate::support::table::Table;
use crate::support::{PATIENCE, servers, wait_for};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const RETRIES: &str = "lakehose_processor_upload_retries_total";

#[test]
fn a_full_disk_delays_rows_and_loses_none() {
    let Some(disk) = SmallDisk::mount() else {
        println!(
            "not played: only root may mount a small disk; `processor/tests/faults` has stores that refuse to store"
        );
        return;
    };
    let lake = disk.path().join("lake").display().to_string();
    let place = Place::new(Config { brokers: Some(servers::kafka()), lake: Some(lake), ..Config::new("full") });
    let size = Size { devices: 10, events_per_device: u64::MAX, batch: 20, pause: Duration::from_millis(100) };
    let (mut processor, ingest) = (place.start("processor"), place.start("ingest"));
    let fleet = Fleet::start(ingest.gateway(), size, 0);
    wait_for("rows", PATIENCE, || {
        (processor.metric("lakehose_processor_events_committed_total") > 1_000.0).then_some(())
    });
    let ballast = disk.fill();
    let retries = processor.metric(RETRIES);
    wait_for("uploads that fail", PATIENCE, || (processor.metric(RETRIES) > retries).then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(processor.ended(), None, "{}", processor.log_tail());
    assert!(processor.has_logged("No space left on device"), "{}", processor.log_tail());
    std::fs::remove_file(ballast).unwrap();

    let ledger = fleet.stop();
    Topic::new(&servers::kafka(), &place.config.dataset).wait_until_no_lag();
    let url = processor.table(&place.config.dataset);
    ingest.stop_all([processor]);
    Table::new(url).assert_is(&ledger, place.path());
}

/// A file system of a few megabytes in memory, unmounted when dropped.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` if this user may not mount.
    fn mount() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(directory.path());
        mount.status().is_ok_and(|status| status.success()).then_some(SmallDisk { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all the room there is.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path().display());
        }
    }
}
