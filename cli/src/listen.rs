//! Addresses to listen on.

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
pub fn refuse_exposed(listen: &ListenAddr, callers_are_known: bool, insecure: bool) -> anyhow::Result<()> {
    if listen.is_loopback() || callers_are_known || insecure {
        return Ok(());
    }
    bail!(
        "listening on {listen} would let anybody who can reach it post events: \
         use a loopback address such as --listen 127.0.0.1:8080, require keys with [auth] keys (`lakehose keys create` \
         makes them), or add --insecure if a network or proxy guards it"
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
    fn listens_beyond_loopback_only_with_keys_or_when_told_that_it_is_insecure() {
        assert!(refuse_exposed(&addr("127.0.0.1:0"), false, false).is_ok());
        assert!(refuse_exposed(&addr("localhost:0"), false, false).is_ok());
        assert!(refuse_exposed(&addr("[::1]:0"), false, false).is_ok());
        assert!(refuse_exposed(&addr("0.0.0.0:0"), true, false).is_ok());
        assert!(refuse_exposed(&addr("0.0.0.0:0"), false, true).is_ok());
        let refusal = refuse_exposed(&addr("0.0.0.0:8080"), false, false).unwrap_err().to_string();
        assert!(refusal.contains("0.0.0.0:8080") && refusal.contains("--insecure"), "{refusal}");
    }

    #[test]
    fn refuses_what_is_not_a_host_and_a_port() {
        for given in ["", "8080", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:80"] {
            assert!(given.parse::<ListenAddr>().is_err(), "{given}");
        }
    }
}
