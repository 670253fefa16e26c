//! What a starting process says on stdout: where everything is, and what to paste to see it work.
//!
//! Programs read the first lines too (`POST events to …`, `table … at …`, `admin …`): ports may have been chosen by the
//! system.

use crate::log::Place;
use ingest::Tls;
use lake::dataset::Dataset;
use lake::store::Lake;
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The facts; what a process does not have is `None`.
pub struct Welcome<'a> {
    pub datasets: &'a [Dataset],
    pub gateway: Option<SocketAddr>,
    pub tls: &'a Tls,
    /// Whether who posts must have a key.
    pub asks_for_keys: bool,
    pub admin: SocketAddr,
    pub log: Option<Place>,
    pub lake: Option<&'a Lake>,
    /// URL of the S3 store, when it is not AWS.
    pub endpoint: Option<String>,
}

impl Welcome<'_> {
    pub fn print(&self) {
        let mut out = std::io::stdout().lock();
        // Whoever closed stdout does not want to know.
        let _ = write!(out, "{self}").and_then(|()| out.flush());
    }
}

impl fmt::Display for Welcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_on() { "https" } else { "http" };
        for Dataset { name, .. } in self.datasets {
            if let Some(gateway) = self.gateway {
                writeln!(f, "POST events to {}/v1/events/{name}", url(scheme, gateway))?;
            }
            if let Some(lake) = self.lake {
                writeln!(f, "table {name} at {}", lake.table_url(name))?;
            }
        }
        if let Some(log) = &self.log {
            writeln!(f, "log: {log}")?;
        }
        writeln!(f, "admin {} (/livez /readyz /metrics)", url("http", self.admin))?;
        let Some(Dataset { name, .. }) = self.datasets.first() else { return Ok(()) };
        if let Some(gateway) = self.gateway {
            writeln!(f, "\nPost an event:\n")?;
            let url = url(scheme, gateway);
            writeln!(f, "  curl {}{url}/v1/events/{name} -H 'content-type: application/json' \\", trust(self.tls))?;
            if self.asks_for_keys {
                writeln!(f, "       -H 'authorization: Bearer lh_…' \\")?;
            }
            writeln!(f, "       -d '{{\"device_id\": \"sensor-1\", \"data\": {{\"temp\": 21.5}}}}'")?;
        }
        if let Some(lake) = self.lake {
            writeln!(f, "\nCount them in DuckDB, seconds later:\n")?;
            writeln!(f, "  INSTALL delta; LOAD delta;{}", credentials(lake.url().scheme(), self.endpoint.as_deref()))?;
            writeln!(f, "  SELECT date, count(*) FROM delta_scan('{}')", lake.table_url(name))?;
            writeln!(f, "  WHERE date >= current_date - 7 GROUP BY date ORDER BY date;\n")?;
        }
        Ok(())
    }
}

/// What DuckDB needs to be told of a bucket: to look where every AWS tool looks, and the endpoint if it is not AWS.
fn credentials(scheme: &str, endpoint: Option<&str>) -> String {
    if scheme != "s3" {
        return String::new();
    }
    let endpoint = endpoint.map_or(String::new(), |endpoint| {
        let (use_ssl, host) = match endpoint.split_once("://") {
            Some((scheme, host)) => (scheme != "http", host),
            None => (true, endpoint),
        };
        format!(", ENDPOINT '{}', URL_STYLE 'path', USE_SSL {use_ssl}", host.trim_end_matches('/'))
    });
    format!(" INSTALL aws; LOAD aws;\n  CREATE SECRET (TYPE s3, PROVIDER credential_chain{endpoint});")
}

/// What curl needs to be told of certificates that were made for this gateway; with those of a public authority, and
/// the gateway's name in the URL, nothing.
fn trust(tls: &Tls) -> String {
    let Some(cert) = &tls.cert else { return String::new() };
    let client = match tls.requires_client_certificate() {
        true => "--cert CLIENT.pem --key CLIENT.key ",
        false => "",
    };
    format!("--cacert '{}' {client}", cert.display())
}

/// An address that a client on this machine can use.
fn url(scheme: &str, mut listening: SocketAddr) -> String {
    if listening.ip().is_unspecified() {
        listening.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("{scheme}://{listening}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::dataset::DatasetSpec;

    #[test]
    fn programs_find_the_addresses_and_people_what_to_paste() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let datasets = [Dataset::new("events", DatasetSpec::default()).unwrap()];
        let welcome = Welcome {
            datasets: &datasets,
            gateway: Some("0.0.0.0:41234".parse().unwrap()),
            tls: &Tls::default(),
            asks_for_keys: true,
            admin: "127.0.0.1:9090".parse().unwrap(),
            log: Some(Place::Kafka { brokers: "k:9092".into() }),
            lake: Some(&lake),
            endpoint: None,
        };
        let text = welcome.to_string();
        let table = lake.table_url("events");
        assert!(table.starts_with("file:///"));
        for line in [
            "POST events to http://127.0.0.1:41234/v1/events/events".to_owned(),
            format!("table events at {table}"),
            "admin http://127.0.0.1:9090 (/livez /readyz /metrics)".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains(&format!("delta_scan('{table}')")), "{text}");
        assert!(text.contains("-H 'authorization: Bearer lh_…' \\\n"), "{text}");
        assert!(text.contains("  curl http://127.0.0.1:41234/v1/events/events -H"), "{text}");

        let tls: Tls = toml::from_str("cert = 'a b.pem'\nkey = 'k'\nclient_ca = 'c'").unwrap();
        let text = Welcome { tls: &tls, ..welcome }.to_string();
        assert!(text.starts_with("POST events to https://127.0.0.1:41234/v1/events/events\n"), "{text}");
        assert!(text.contains("admin http://"), "the admin listener stays plain: {text}");
        let curl =
            "  curl --cacert 'a b.pem' --cert CLIENT.pem --key CLIENT.key https://127.0.0.1:41234/v1/events/events";
        assert!(text.contains(curl), "{text}");
    }

    #[test]
    fn the_query_of_a_bucket_says_where_its_store_is() {
        assert_eq!(credentials("file", None), "");
        assert!(credentials("s3", None).contains("credential_chain)"));
        let other = credentials("s3", Some("http://127.0.0.1:7070/"));
        assert!(other.contains("ENDPOINT '127.0.0.1:7070', URL_STYLE 'path', USE_SSL false"), "{other}");
    }
}
