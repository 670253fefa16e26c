//! The gateway does what it says of itself: schemathesis makes requests out of `/openapi.json`, good and bad ones, and
//! holds every answer against it.

use crate::support::config::Config;
use crate::support::process::Place;
use crate::support::servers;
use crate::support::{PATIENCE, http, wait_for};
use std::path::Path;
use std::process::Command;

/// Every time that the schema allows is within these; what is too old is the business of `ingest`'s own tests.
const ANY_TIME: &str = "[datasets.contract]\nmax_age = '750000d'\nmax_ahead = '2920000d'";

#[test]
fn the_gateway_does_what_its_description_says() {
    // Nothing is written to the table: events of any year would make a file for each of their dates.
    let place = Place::new(Config { flush_every: "1h", more: ANY_TIME, ..Config::new("described") });
    let up = place.start("up");
    wait_for("ready", PATIENCE, || up.is_ready().then_some(()));
    let gateway = up.gateway();
    let root = gateway.split("/v1/").next().unwrap();

    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/schemathesis");
    let mut schemathesis = Command::new(servers::python());
    schemathesis.args(["-m", "schemathesis.cli", "--config-file"]).arg(settings.join("schemathesis.toml"));
    schemathesis.args(["run", &format!("{root}/openapi.json"), "--checks", "all", "--continue-on-failure"]);
    // The same requests every time, so that a failure is one of what has changed.
    schemathesis.args(["--max-examples", "60", "--seed", "20261122", "--generation-database", "none"]);
    let output =
        schemathesis.current_dir(place.path()).env("SCHEMATHESIS_HOOKS", settings.join("hooks.py")).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    // Requests were made, and not only bad ones: else nothing was checked.
    let summary = said.lines().find(|line| line.contains(" generated, ")).unwrap_or_else(|| panic!("{said}"));
    let made: u32 = summary.split_whitespace().next().unwrap().parse().unwrap();
    assert!(made > 100, "{said}");
    assert!(up.metric("lakehose_ingest_events_accepted_total") > 20.0, "{said}");
    assert_eq!(http::get(&format!("{root}/docs/")).unwrap().status, 200);
    up.kill();
}
