//! The servers that `infra/test` starts. A test that lacks one fails: a skipped proof looks like a proof.

use std::path::PathBuf;

/// A Kafka broker that all tests share, as `host:port`.
pub fn kafka() -> String {
    variable("LAKEHOSE_TEST_KAFKA")
}

/// The script that starts a broker of one's own.
pub fn kafka_start() -> PathBuf {
    variable("LAKEHOSE_TEST_KAFKA_START").into()
}

/// The script that stops it.
pub fn kafka_stop() -> PathBuf {
    variable("LAKEHOSE_TEST_KAFKA_STOP").into()
}

/// The script that starts an S3 server of one's own.
pub fn s3_start() -> PathBuf {
    variable("LAKEHOSE_TEST_S3_START").into()
}

/// The script that stops it.
pub fn s3_stop() -> PathBuf {
    variable("LAKEHOSE_TEST_S3_STOP").into()
}

/// The program that answers SQL.
pub fn duckdb() -> PathBuf {
    variable("LAKEHOSE_TEST_DUCKDB").into()
}

/// A Python with the packages of `infra/requirements.txt`.
pub fn python() -> PathBuf {
    variable("LAKEHOSE_TEST_PYTHON").into()
}

/// Where Node finds the packages of `infra/node`.
pub fn node_modules() -> PathBuf {
    variable("LAKEHOSE_TEST_NODE_MODULES").into()
}

/// The shared S3 server's address.
pub fn s3() -> String {
    variable("LAKEHOSE_TEST_S3")
}

/// A prefix in the bucket of the shared S3 server.
pub fn s3_lake(prefix: &str) -> String {
    for (name, _) in aws() {
        variable(&name);
    }
    format!("s3://{}/{prefix}", variable("LAKEHOSE_TEST_S3_BUCKET"))
}

/// How the S3 server is reached, for a process that is given no other variables.
pub fn aws() -> Vec<(String, String)> {
    let names = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"];
    names.map(|name| (name.to_owned(), std::env::var(name).unwrap_or_default())).to_vec()
}

fn variable(name: &str) -> String {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!("{name} is not set: this test needs real servers; run `infra/test`, which starts them"),
    }
}
