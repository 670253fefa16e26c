//! An S3 server of one's own, to take away and bring back.

use super::broker::{run, setting, signal, stop};
use super::servers;
use rustix::process::Signal;
use tempfile::TempDir;

/// A server with a bucket; stopped when dropped.
#[derive(Debug)]
pub struct Bucket {
    directory: TempDir,
    pub endpoint: String,
    name: String,
}

impl Bucket {
    pub fn start() -> Bucket {
        let directory = tempfile::tempdir().unwrap();
        run(&servers::s3_start(), directory.path());
        let (endpoint, name) = (setting(directory.path(), "S3_ENDPOINT"), setting(directory.path(), "S3_BUCKET"));
        Bucket { directory, endpoint, name }
    }

    pub fn lake(&self) -> String {
        format!("s3://{}/lake", self.name)
    }

    /// The table's directory: the server keeps objects as files, which can be read without it.
    pub fn table(&self, name: &str) -> String {
        self.directory.path().join("data").join(&self.name).join("lake").join(name).display().to_string()
    }

    /// kill -9.
    pub fn kill(&self) {
        signal(self.directory.path(), "S3_PID", Signal::KILL);
    }

    /// Brings it back with what it had, at the same address.
    pub fn start_again(&self) {
        run(&servers::s3_start(), self.directory.path());
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        stop(&servers::s3_stop(), self.directory.path());
    }
}
