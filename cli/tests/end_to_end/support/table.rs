//! What must be true of a table, asked in DuckDB.

use super::duckdb::DuckDb;
use super::fleet::Ledger;
use serde_json::{Value, json};
use std::path::Path;

/// A table and a session to ask in.
#[derive(Debug)]
pub struct Table {
    pub duckdb: DuckDb,
    url: String,
}

impl Table {
    pub fn new(url: String) -> Table {
        Table { duckdb: DuckDb::start(), url }
    }

    /// The table in SQL.
    pub fn scan(&self) -> String {
        format!("delta_scan('{}')", self.url)
    }

    pub fn count(&mut self) -> u64 {
        let sql = format!("SELECT count(*) FROM {}", self.scan());
        self.duckdb.number(&sql) as u64
    }

    /// Everything that must be true of events of the devices in `ledger`, and only of theirs.
    #[track_caller]
    pub fn assert_is(&mut self, ledger: &Ledger, directory: &Path) {
        self.assert_events(ledger, directory);
        self.assert_offsets_form_chains();
        self.assert_order_of_devices();
    }

    /// Every acknowledged event is there, no other, and each as it was posted.
    #[track_caller]
    pub fn assert_events(&mut self, ledger: &Ledger, directory: &Path) {
        let file = directory.join("ledger.csv");
        ledger.write(&file);
        self.duckdb.rows(&format!(
            "CREATE OR REPLACE TEMP TABLE ledger AS SELECT * FROM read_csv('{}', header = true, types =
                {{'id': 'VARCHAR', 'device_id': 'VARCHAR', 'seq': 'BIGINT', 'attempts': 'BIGINT'}})",
            file.display()
        ));
        self.duckdb.rows(&format!("CREATE OR REPLACE TEMP TABLE t AS SELECT * FROM {}", self.scan()));
        self.assert_every_acknowledged_event_once();
        self.assert_values();
    }

    /// An event whose fate was unknown when the device sent it again may be in the log once for each attempt, but it comes
    /// within the deduplication window.
    #[track_caller]
    fn assert_every_acknowledged_event_once(&mut self) {
        let found = self.duckdb.row(
            "SELECT count(*) FILTER (l.id IS NULL) AS strangers, count(*) FILTER (n IS NULL) AS lost,
                    count(*) FILTER (n > 1) AS twice
             FROM ledger l FULL JOIN (SELECT id, count(*) AS n FROM t GROUP BY id) t ON t.id = l.id",
        );
        assert_eq!(found, json!({"strangers": 0, "lost": 0, "twice": 0}), "{}", self.examples());
    }

    fn examples(&mut self) -> String {
        let rows = self.duckdb.rows(
            "SELECT coalesce(l.id, t.id) AS id, attempts, n, places
             FROM ledger l FULL JOIN (
                SELECT id, count(*) AS n, list((kafka_partition, kafka_offset)) AS places FROM t GROUP BY id
             ) t ON t.id = l.id
             WHERE l.id IS NULL OR n IS NULL OR n > 1 ORDER BY (n IS NULL OR l.id IS NULL) DESC, n DESC LIMIT 5",
        );
        Value::from(rows).to_string()
    }

    /// Nothing else writes to these topics, so the offsets of a partition are 0, 1, 2 and so on. Only copies
    /// of events that were sent more than once are left out.
    #[track_caller]
    fn assert_offsets_form_chains(&mut self) {
        let found = self.duckdb.row(
            "SELECT sum(n)::BIGINT AS rows, sum(offsets)::BIGINT AS offsets, sum(last + 1 - n)::BIGINT AS holes,
                    max(first) AS first, (SELECT sum(attempts)::BIGINT FROM ledger) AS attempts
             FROM (SELECT count(*) AS n, count(DISTINCT kafka_offset) AS offsets, min(kafka_offset) AS first,
                          max(kafka_offset) AS last
                   FROM t GROUP BY kafka_partition)",
        );
        let number = |name: &str| found[name].as_i64().unwrap();
        assert_eq!((number("offsets"), number("first")), (number("rows"), 0), "{found}");
        assert!(number("rows") + number("holes") <= number("attempts"), "{found}");
    }

    /// A device sends the next events when the ones before are acknowledged. What counts is the first copy of an event:
    /// it is the one that is kept.
    #[track_caller]
    pub fn assert_order_of_devices(&mut self) {
        let wrong = self.duckdb.number(
            "SELECT count(*) FROM (
                SELECT first, lag(first) OVER (PARTITION BY device_id ORDER BY seq) AS before
                FROM (SELECT device_id, seq, min(kafka_offset) AS first FROM t GROUP BY device_id, seq)
             ) WHERE first <= before",
        );
        assert_eq!(wrong, 0, "events that overtook an earlier one of their device");
        let split = self.duckdb.number(
            "SELECT count(*) FROM (SELECT device_id FROM t GROUP BY device_id HAVING count(DISTINCT kafka_partition) > 1)",
        );
        assert_eq!(split, 0, "devices in more than one partition");
    }

    #[track_caller]
    fn assert_values(&mut self) {
        let types = self.duckdb.rows("SELECT column_name AS name, column_type AS type FROM (DESCRIBE t)");
        let types: Vec<(&str, &str)> =
            types.iter().map(|row| (row["name"].as_str().unwrap(), row["type"].as_str().unwrap())).collect();
        assert_eq!(
            types,
            [
                ("id", "VARCHAR"),
                ("device_id", "VARCHAR"),
                ("type", "VARCHAR"),
                ("time", "TIMESTAMP WITH TIME ZONE"),
                ("received_at", "TIMESTAMP WITH TIME ZONE"),
                ("seq", "BIGINT"),
                ("temp", "DOUBLE"),
                ("fw", "VARCHAR"),
                ("data", "VARCHAR"),
                ("kafka_partition", "INTEGER"),
                ("kafka_offset", "BIGINT"),
                ("date", "DATE"),
            ]
        );
        // What a device posts follows from `seq` (see `device::Device::event`).
        let checks = [
            ("id", "id = device_id || '/' || seq"),
            ("type", "type = 'reading'"),
            ("temp", "temp IS NOT DISTINCT FROM CASE WHEN seq % 10 = 7 THEN NULL ELSE seq / 4.0 END"),
            ("a misfit stays in data", "(data->>'temp') IS NOT DISTINCT FROM CASE WHEN seq % 10 = 7 THEN 'broken' END"),
            ("fw", "fw = '1.' || (seq % 5)"),
            ("time", "epoch_ms(time) = CAST(data->'os'->>'at' AS BIGINT)"),
            ("date", "date = CAST(time AT TIME ZONE 'UTC' AS DATE)"),
            ("received_at", "received_at BETWEEN now() - INTERVAL 1 HOUR AND now()"),
            ("data", "(data->>'note') = 'a \"quoted\" ünïcode note'"),
            ("what a column took is not in data", "(data->'seq') IS NULL AND (data->'os'->'fw') IS NULL"),
        ];
        for (what, holds) in checks {
            let wrong = self.duckdb.rows(&format!("SELECT * FROM t WHERE ({holds}) IS NOT TRUE LIMIT 3"));
            assert!(wrong.is_empty(), "{what}: {wrong:?}");
        }
        assert_eq!(self.duckdb.number("SELECT count(DISTINCT date) FROM t"), 3);
    }
}
