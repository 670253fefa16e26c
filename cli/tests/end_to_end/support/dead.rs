//! `lakehose dead` as a person or a script uses it.

use super::process::{Lakehose, Place};
use super::servers;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The dead letters of the dataset of a place.
#[derive(Debug)]
pub struct DeadLetters {
    directory: PathBuf,
    dataset: String,
}

/// How a command ended that was to be killed.
#[derive(Debug)]
pub struct Told {
    /// False if it was faster.
    pub was_killed: bool,
    log: String,
}

impl Told {
    /// Of each batch of an earlier process that it went on with, how many records were in the topic already.
    pub fn finished(&self) -> Vec<u64> {
        let lines = self.log.lines().filter(|line| line.contains("finishing a replay"));
        lines.map(|line| line.rsplit_once("landed=").unwrap().1.trim().parse().unwrap()).collect()
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said(Output);

impl Said {
    /// What it said on stdout; it must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.0.status.success(), "{}", String::from_utf8_lossy(&self.0.stderr));
        String::from_utf8(self.0.stdout).unwrap()
    }

    /// The line on stderr; it must have failed.
    #[track_caller]
    pub fn complaint(self) -> String {
        assert_eq!(self.0.status.code(), Some(1), "{}", String::from_utf8_lossy(&self.0.stdout));
        let stderr = String::from_utf8(self.0.stderr).unwrap();
        stderr.lines().last().unwrap_or_default().to_owned()
    }
}

impl DeadLetters {
    pub fn of(place: &Place) -> DeadLetters {
        DeadLetters { directory: place.path().to_owned(), dataset: place.config.dataset.clone() }
    }

    /// The table as DuckDB is told of it.
    pub fn table(&self, process: &Lakehose) -> String {
        format!("{}__dead", process.table(&self.dataset))
    }

    pub fn replays(&self, process: &Lakehose) -> String {
        format!("{}__dead_replays", process.table(&self.dataset))
    }

    /// How many commits the table of replays has, in the lake of the place.
    pub fn commits(&self) -> usize {
        let log = format!("lakehose-data/lake/{}__dead_replays/_delta_log", self.dataset);
        let entries = std::fs::read_dir(self.directory.join(log)).into_iter().flatten();
        entries.filter(|entry| entry.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|e| e == "json"))).count()
    }

    /// Starts `lakehose dead <what> <dataset> …`.
    pub fn start(&self, args: &[&str]) -> Child {
        let (what, rest) = args.split_first().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakehose"));
        command.args(["dead", what, &self.dataset]).args(rest).current_dir(&self.directory);
        command.env_clear().envs(servers::aws());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn run(&self, args: &[&str]) -> Said {
        Said(self.start(args).wait_with_output().unwrap())
    }

    /// The JSON objects that a command prints, one a line.
    #[track_caller]
    pub fn lines(&self, args: &[&str]) -> Vec<Value> {
        self.run(args).ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Exports to `file`, each line corrected.
    #[track_caller]
    pub fn correct(&self, chosen: &[&str], file: &Path, correct: impl Fn(&mut Value)) {
        let mut lines = self.lines(&[&["export"], chosen].concat());
        lines.iter_mut().for_each(correct);
        std::fs::write(file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    /// kill -9 as soon as `due`, unless it has ended before.
    pub fn kill_when(&self, args: &[&str], mut due: impl FnMut() -> bool) -> Told {
        let mut child = self.start(args);
        while child.try_wait().unwrap().is_none() && !due() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let was_killed = child.try_wait().unwrap().is_none();
        // It may end by itself at this very moment.
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(was_killed || output.status.success(), "{log}");
        Told { was_killed, log }
    }

    pub fn place(&self, line: &Value) -> (i32, i64) {
        (line["kafka_partition"].as_i64().unwrap() as i32, line["kafka_offset"].as_i64().unwrap())
    }

    /// The bytes that an exported line holds under a name.
    pub fn bytes(&self, line: &Value, name: &str) -> Option<Vec<u8>> {
        let text = line[name].as_str().map(|text| text.as_bytes().to_vec());
        text.or_else(|| line[format!("{name}_base64")].as_str().map(|text| BASE64.decode(text).unwrap()))
    }
}
