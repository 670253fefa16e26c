//! DuckDB, as an analyst has it: one process that answers SQL, line by line.

use super::servers;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A session.
#[derive(Debug)]
pub struct DuckDb {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl DuckDb {
    pub fn start() -> DuckDb {
        let mut command = Command::new(servers::duckdb());
        let mut child = command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        DuckDb { child, questions, answers }
    }

    /// Rows, or what DuckDB complains of.
    pub fn ask(&mut self, sql: &str) -> Result<Vec<Value>, String> {
        let line: Vec<&str> = sql.split_whitespace().collect();
        writeln!(self.questions, "{}", line.join(" ")).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or_else(|err| panic!("{err}: {answer:?}"));
        match answer["rows"].take() {
            Value::Array(rows) => Ok(rows),
            _ => Err(answer["error"].to_string()),
        }
    }

    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Value> {
        self.ask(sql).unwrap_or_else(|err| panic!("{err}\n{sql}"))
    }

    /// The only row.
    #[track_caller]
    pub fn row(&mut self, sql: &str) -> Value {
        let mut rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}");
        rows.remove(0)
    }

    /// The only number.
    #[track_caller]
    pub fn number(&mut self, sql: &str) -> i64 {
        let row = self.row(sql);
        let value = row.as_object().unwrap().values().next().unwrap();
        value.as_i64().unwrap_or_else(|| panic!("not a number: {row}\n{sql}"))
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // The script has replaced itself by the interpreter, so this is the only process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
