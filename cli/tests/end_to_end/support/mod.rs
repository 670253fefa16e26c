//! What the scenarios are told in: processes, devices, and the table as an analyst sees it.

pub mod servers;
pub mod config;
pub mod process;
pub mod http;
pub mod device;
pub mod fleet;
pub mod bad_line;
pub mod duckdb;
pub mod table;
pub mod reader;
pub mod kafka;
pub mod broker;
pub mod bucket;
pub mod foreign;
pub mod dead;
pub mod steady;
pub mod watch;

use std::time::{Duration, Instant};

/// A name that no other test uses, on servers that all of them share.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// Waits until `holds` answers something. The time is for a machine that is busy with other tests.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut holds: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Long enough for whatever must happen sooner or later.
pub const PATIENCE: Duration = Duration::from_secs(180);
