//! Programs that read the table, asked for the same summary again and again.

use crate::support::duckdb::DuckDb;
use crate::support::servers;
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The events of one device and date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Summary {
    pub rows: u64,
    /// Distinct partitions and offsets.
    pub places: u64,
    /// Of `seq`, like the others.
    pub sum: u64,
    pub first: u64,
    pub last: u64,
}

/// What an engine answers, a line for each device and date.
#[derive(Debug, Deserialize)]
pub struct Line {
    pub device: String,
    #[serde(flatten)]
    pub summary: Summary,
}

/// A running engine.
#[derive(Debug)]
pub enum Engine {
    DuckDb { session: DuckDb, url: String },
    Python(Python),
}

impl Engine {
    pub fn duckdb(url: &str) -> Engine {
        Engine::DuckDb { session: DuckDb::start(), url: url.to_owned() }
    }

    pub fn polars(url: &str) -> Engine {
        Engine::Python(Python::start("polars", url))
    }

    pub fn deltalake(url: &str) -> Engine {
        Engine::Python(Python::start("deltalake", url))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Engine::DuckDb { .. } => "DuckDB",
            Engine::Python(python) => python.name,
        }
    }

    /// What is in the table now, or what the engine complains of.
    pub fn ask(&mut self) -> Result<Vec<Line>, String> {
        let lines = match self {
            Engine::DuckDb { session, url } => session.ask(&format!(
                "SELECT device_id AS device, count(*) AS rows,
                        count(DISTINCT (kafka_partition, kafka_offset)) AS places, sum(seq)::BIGINT AS sum,
                        min(seq) AS first, max(seq) AS last
                 FROM delta_scan('{url}') GROUP BY device_id, date"
            )),
            Engine::Python(python) => python.ask(),
        };
        let line = |line| serde_json::from_value(line).unwrap_or_else(|err| panic!("{err}"));
        Ok(lines?.into_iter().map(line).collect())
    }
}

/// `readers.py`, in the environment that DuckDB runs in.
#[derive(Debug)]
pub struct Python {
    name: &'static str,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start(name: &'static str, url: &str) -> Python {
        let environment = Command::new(servers::duckdb().with_file_name("../venv")).output().unwrap();
        let environment = String::from_utf8(environment.stdout).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/compaction/readers.py");
        let mut command = Command::new(Path::new(environment.trim()).join("bin/python"));
        command.arg(script).args([name, url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Python { name, child, questions, answers }
    }

    fn ask(&mut self) -> Result<Vec<Value>, String> {
        writeln!(self.questions).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        match serde_json::from_str(&answer).unwrap_or_else(|err| panic!("{}: {err}: {answer:?}", self.name)) {
            Value::Array(rows) => Ok(rows),
            complaint => Err(complaint.to_string()),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
