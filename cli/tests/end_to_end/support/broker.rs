//! A Kafka broker of one's own, to take away and bring back.

use super::{PATIENCE, servers, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A broker; stopped when dropped.
#[derive(Debug)]
pub struct Broker {
    directory: TempDir,
    pub address: String,
}

impl Broker {
    pub fn start() -> Broker {
        let directory = tempfile::tempdir().unwrap();
        run(&servers::kafka_start(), directory.path());
        let address = setting(directory.path(), "KAFKA_BOOTSTRAP");
        Broker { directory, address }
    }

    /// kill -9.
    pub fn kill(&self) {
        signal(self.directory.path(), "KAFKA_PID", Signal::KILL);
        // A busy machine takes its time to clean up behind it, and the next start needs the port.
        wait_for("the broker's port is free", PATIENCE, || TcpStream::connect(&self.address).is_err().then_some(()));
    }

    /// SIGSTOP: it answers nobody, and its connections stay open.
    pub fn freeze(&self) {
        signal(self.directory.path(), "KAFKA_PID", Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.directory.path(), "KAFKA_PID", Signal::CONT);
    }

    /// Brings it back with what it had, at the same address.
    pub fn start_again(&self) {
        run(&servers::kafka_start(), self.directory.path());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        stop(&servers::kafka_stop(), self.directory.path());
    }
}

pub(super) fn run(script: &Path, directory: &Path) {
    // On a machine that is busy with other tests it may take more than a minute.
    let patient = ("KAFKA_START_TIMEOUT", "180");
    let status = Command::new(script).arg(directory).envs([patient]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{} {}: {status}", script.display(), directory.display());
}

pub(super) fn stop(script: &Path, directory: &Path) {
    let stopped = Command::new(script).arg(directory).status();
    // While a test fails, this must not hide why.
    if !stopped.is_ok_and(|status| status.success()) {
        eprintln!("the server in {} was not stopped", directory.display());
    }
}

/// To the process that the server's settings name.
pub(super) fn signal(directory: &Path, pid: &str, signal: Signal) {
    let pid: i32 = setting(directory, pid).parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(super) fn setting(directory: &Path, name: &str) -> String {
    let env = std::fs::read_to_string(directory.join("env")).unwrap();
    let value = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {env}")).to_owned()
}
