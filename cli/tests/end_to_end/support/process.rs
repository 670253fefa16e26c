//! A running `lakehose`, started as a user would and ended in every way there is.

use super::config::Config;
use super::{http, servers};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A directory with a `lakehose.toml`, and the data of the processes that are started in it.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    pub config: Config,
}

impl Place {
    pub fn new(config: Config) -> Place {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("lakehose.toml"), config.to_toml()).unwrap();
        Place { directory, config }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// For processes that are started from now on.
    pub fn reconfigure(&mut self, config: Config) {
        std::fs::write(self.path().join("lakehose.toml"), config.to_toml()).unwrap();
        self.config = config;
    }

    /// Runs a command to its end. Answers its exit code and what it said on both ways.
    pub fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut process = Command::new(env!("CARGO_BIN_EXE_lakehose"));
        let output = process.args(args).current_dir(self.path()).env_clear().envs(servers::aws()).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        (output.status.code(), said)
    }

    /// Starts a process and waits for it to say where it is.
    #[track_caller]
    pub fn start(&self, command: &str) -> Lakehose {
        self.try_start(command, &[]).unwrap_or_else(|said| panic!("{said}"))
    }

    /// The same with environment variables of its own, for a process that may not find what it needs; then its last
    /// words.
    pub fn try_start(&self, command: &str, variables: &[(&str, &str)]) -> Result<Lakehose, String> {
        let store = self.config.store.as_deref().map(|address| ("AWS_ENDPOINT_URL", address));
        Lakehose::start(command, self.path(), &[store.as_slice(), variables].concat())
    }
}

/// A process that runs until it is ended or dropped.
#[derive(Debug)]
pub struct Lakehose {
    child: Child,
    command: String,
    said: String,
    log: PathBuf,
    // Kept open: a program whose standard output is gone behaves differently.
    _stdout: BufReader<ChildStdout>,
}

/// How long an orderly end may take; more than the drain's own limits.
const END_WITHIN: Duration = Duration::from_secs(60);

impl Lakehose {
    fn start(command: &str, directory: &Path, variables: &[(&str, &str)]) -> Result<Lakehose, String> {
        let log = directory.join(super::unique(command)).with_extension("log");
        let mut process = Command::new(env!("CARGO_BIN_EXE_lakehose"));
        process.arg(command).args(["--admin", "127.0.0.1:0"]).current_dir(directory);
        if ["up", "ingest"].contains(&command) {
            process.args(["--listen", "127.0.0.1:0"]);
        }
        process.env_clear().envs(servers::aws()).envs(variables.iter().copied());
        process.stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = process.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while stdout.read_line(&mut said).unwrap() > 1 {}
        let started = Lakehose { child, command: command.to_owned(), said, log, _stdout: stdout };
        match started.said.contains("admin ") {
            true => Ok(started),
            false => Err(format!("{} did not start:\n{}", started.command, started.log_tail())),
        }
    }

    /// Where the devices post to.
    pub fn gateway(&self) -> String {
        self.fact("POST events to ")
    }

    /// The table as DuckDB is told of it.
    pub fn table(&self, name: &str) -> String {
        self.fact(&format!("table {name} at "))
    }

    pub fn is_ready(&self) -> bool {
        http::get(&self.admin("/readyz")).is_ok_and(|answer| answer.status == 200)
    }

    /// Why a component is not ready; `None` if it is.
    pub fn reason(&self, component: &str) -> Option<String> {
        let state = http::get(&self.admin("/readyz")).unwrap().json()["components"][component].take();
        assert!(state["ready"].is_boolean(), "no component {component}");
        state["reason"].as_str().map(str::to_owned)
    }

    /// A series of `/metrics`, added up over its labels; 0 if there is none.
    pub fn metric(&self, name: &str) -> f64 {
        sum(&http::get(&self.admin("/metrics")).unwrap().body, name)
    }

    /// Where a page of the admin listener is.
    pub fn admin(&self, path: &str) -> String {
        format!("{}{path}", self.fact("admin "))
    }

    /// What follows `before` in the first line that starts so.
    fn fact(&self, before: &str) -> String {
        let line = self.said.lines().find_map(|line| line.strip_prefix(before));
        let line = line.unwrap_or_else(|| panic!("{} did not say `{before}`: {}", self.command, self.said));
        line.split(' ').next().unwrap().to_owned()
    }

    /// The largest resident memory so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How it ended by itself; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGSTOP, SIGCONT, SIGTERM: whatever it lives through.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// kill -9.
    pub fn kill(mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "{} ended by itself:\n{}", self.command, self.log_tail());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the end that must follow: in time, with exit code 0.
    pub fn stop(self) {
        self.stop_all([]);
    }

    /// The same for several that end at the same time.
    pub fn stop_all(self, others: impl IntoIterator<Item = Lakehose>) {
        let mut all = vec![self];
        all.extend(others);
        for process in &all {
            process.signal(Signal::TERM);
        }
        for process in all {
            process.wait_for_its_end();
        }
    }

    /// Waits for the end of one that was told to stop: in time, with exit code 0.
    pub fn wait_for_its_end(mut self) {
        let status = self.wait();
        assert!(status.success(), "{} ended with {status}:\n{}", self.command, self.log_tail());
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + END_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not stop:\n{}", self.command, self.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it has logged `words`.
    pub fn has_logged(&self, words: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap().contains(words)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// A series of a page of metrics, added up over its labels.
pub fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

impl Drop for Lakehose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- last lines of `lakehose {}`\n{}", self.command, self.log_tail());
        }
        // It has ended already if it was stopped or killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
