//! Addresses to listen on.

use crate::config::Config;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use tokio::net::TcpListener;

/// A host and a port to listen on, as `127.0.0.1:8080`; port 0 lets the system choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddr {
    given: String,
    resolved: SocketAddr,
}

impl ListenAddr {
    /// Only this machine can connect.
    pub fn is_loopback(&self) -> bool {
        self.resolved.ip().is_loopback()
    }

    /// Starts to listen. `option` is what the user changes if the address is taken.
    pub async fn bind(&self, option: &str) -> anyhow::Result<TcpListener> {
        TcpListener::bind(self.resolved)
            .await
            .with_context(|| format!("cannot listen on {self} (choose another address with {option})"))
    }
}

/// Where nobody must say who they are, whoever reaches the gateway can write: that must be said, not happen.
pub fn refuse_exposed(config: &Config, insecure: bool) -> anyhow::Result<()> {
    let listen = &config.listen;
    let callers_are_known = config.auth.is_on() || config.tls.requires_client_certificate();
    if listen.is_loopback() || callers_are_known || insecure {
        return Ok(());
    }
    bail!(
        "listening on {listen} would let anybody who can reach it post events: \
         use a loopback address such as --listen 127.0.0.1:8080, require keys with [auth] keys (`lakehose keys create` \
         makes them) or client certificates with [tls] client_ca, or add --insecure if a network or proxy guards it"
    )
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(given: &str) -> Result<ListenAddr, String> {
        let allowed = "expected a host and a port such as 127.0.0.1:8080";
        match given.to_socket_addrs().map(|mut addrs| addrs.next()) {
            Ok(Some(resolved)) => Ok(ListenAddr { given: given.to_owned(), resolved }),
            _ => Err(format!("`{given}` is not an address of this machine, {allowed}")),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl<'de> Deserialize<'de> for ListenAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ListenAddr, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(given: &str) -> ListenAddr {
        given.parse().unwrap()
    }

    #[test]
    fn listens_beyond_loopback_only_for_known_callers_or_when_told_that_it_is_insecure() {
        let check = |listen, config: &str, insecure| {
            let config = toml::from_str(config).unwrap();
            refuse_exposed(&Config { listen: addr(listen), ..config }, insecure)
        };
        for loopback in ["127.0.0.1:0", "localhost:0", "[::1]:0"] {
            assert!(check(loopback, "", false).is_ok());
        }
        assert!(check("0.0.0.0:0", "", true).is_ok());
        assert!(check("0.0.0.0:0", "[auth]\nkeys = 'keys'", false).is_ok());
        let refusal = check("0.0.0.0:8080", "", false).unwrap_err().to_string();
        assert!(refusal.contains("0.0.0.0:8080") && refusal.contains("--insecure"), "{refusal}");

        let encrypted = "[tls]\ncert = 'c'\nkey = 'k'\n";
        let known = format!("{encrypted}client_ca = 'a'\n");
        assert!(check("0.0.0.0:0", encrypted, false).is_err(), "who posts is not known");
        assert!(check("0.0.0.0:0", &known, false).is_ok());
        assert!(check("0.0.0.0:0", &format!("{known}client_auth = 'optional'"), false).is_err());
    }

    #[test]
    fn refuses_what_is_not_a_host_and_a_port() {
        for given in ["", "8080", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:80"] {
            assert!(given.parse::<ListenAddr>().is_err(), "{given}");
        }
    }
}
