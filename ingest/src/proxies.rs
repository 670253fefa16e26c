//! Whose request a trusted proxy forwards. Pure: the peer and the headers in, an address out.
//!
//! Each proxy appends the address it was called from, so what stands on the right was written by the one nearest to us,
//! and what stands on the left by whoever wrote it first, which may be the client itself. So the list is read from the
//! right, only while those who wrote it are trusted: the first address that is no trusted proxy is the client. What
//! cannot be read ends the walk at the last proxy before it.
//!
//! One header is believed, the one that the operator says his proxies write. A proxy passes on headers that it does not
//! know, so the other one may be the client's own invention.

use axum::http::HeaderMap;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The header in which trusted proxies name the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Proxies whose word is taken, by address or network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    fn contain(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }
}

/// The proxies in front of a gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    pub(crate) trusted: TrustedProxies,
    pub(crate) header: ProxyHeader,
}

impl Proxies {
    /// The address of the client on behalf of whom `peer` sent these headers.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.trusted.contain(nearest) {
            return nearest;
        }
        let name = match self.header {
            ProxyHeader::XForwardedFor => "x-forwarded-for",
            ProxyHeader::Forwarded => "forwarded",
        };
        // Several headers of a name are one list (RFC 9110, 5.3).
        for line in headers.get_all(name).iter().rev() {
            for hop in self.header.hops(&String::from_utf8_lossy(line.as_bytes())).into_iter().rev() {
                let Some(hop) = hop else { return nearest };
                nearest = hop;
                if !self.trusted.contain(nearest) {
                    return nearest;
                }
            }
        }
        nearest
    }
}

impl ProxyHeader {
    /// Who is named in a header, in its order; `None` for what cannot be read.
    fn hops(self, line: &str) -> Vec<Option<IpAddr>> {
        match self {
            ProxyHeader::XForwardedFor => line.split(',').map(|hop| address(hop.trim())).collect(),
            // A quote that a client left open may reach into what a proxy appended, so all of such a line is doubtful.
            ProxyHeader::Forwarded => forwarded(line).unwrap_or_else(|| vec![None]),
        }
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed).map(|ip: IpAddr| ip.to_canonical())
}

/// The `for` of each element of `Forwarded`; nothing at all if it is not formed as RFC 7239 demands.
fn forwarded(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = vec![None];
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (name, value, after) = pair(rest)?;
        if name.eq_ignore_ascii_case("for") {
            *hops.last_mut()? = address(value);
        }
        let after = after.trim_start();
        rest = match after.as_bytes().first() {
            None => break,
            Some(b';') => after[1..].trim_start(),
            Some(b',') => {
                hops.push(None);
                after[1..].trim_start()
            }
            Some(_) => return None,
        };
    }
    Some(hops)
}

/// The first `name=value` or `name="value"`, and what follows it.
fn pair(text: &str) -> Option<(&str, &str, &str)> {
    let (name, value) = text.split_once('=')?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return None;
    }
    let (value, after) = match value.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => value.split_at(value.bytes().position(|byte| !is_token(byte)).unwrap_or(value.len())),
    };
    // After an escape the quote may not be the last; no address has one.
    (!value.contains('\\')).then_some((name, value, after))
}

/// RFC 9110, 5.6.2; and `:`, for proxies that do not quote a port.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte)
}

impl<'de> Deserialize<'de> for TrustedProxies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrustedProxies, D::Error> {
        let network = |text: &String| {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| de::Error::custom(format!("`{text}` is no address or network such as \"10.0.0.0/8\"")))
        };
        Vec::<String>::deserialize(deserializer)?.iter().map(network).collect::<Result<_, _>>().map(TrustedProxies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    const FAR: &str = "203.0.113.9";

    fn client(header: ProxyHeader, peer: &str, lines: &[&str]) -> String {
        let trusted = serde_json::from_str(r#"["10.0.0.0/8", "::1", "2001:db8:1::/48"]"#).unwrap();
        let name = if header == ProxyHeader::Forwarded { "forwarded" } else { "x-forwarded-for" };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        Proxies { trusted, header }.client(peer.parse().unwrap(), &headers).to_string()
    }

    fn x(peer: &str, lines: &[&str]) -> String {
        client(ProxyHeader::XForwardedFor, peer, lines)
    }

    fn rfc(lines: &[&str]) -> String {
        client(ProxyHeader::Forwarded, "10.0.0.1", lines)
    }

    #[test]
    fn nobody_but_a_trusted_proxy_is_believed() {
        assert_eq!(x("198.51.100.1", &[FAR]), "198.51.100.1");
        assert_eq!(x("11.0.0.1", &["10.0.0.2"]), "11.0.0.1");
        assert_eq!(x("::2", &[FAR]), "::2");
        let nobody = Proxies::default().client("10.0.0.1".parse().unwrap(), &HeaderMap::new());
        assert_eq!(nobody.to_string(), "10.0.0.1");
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
        assert_eq!(x("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(x("10.0.0.1", &[FAR]), FAR);
        assert_eq!(x("::ffff:10.0.0.1", &[FAR]), FAR);
        assert_eq!(x("10.0.0.1", &["1.1.1.1, 203.0.113.9 ,10.9.9.9, 2001:db8:1::5"]), FAR, "1.1.1.1 is an invention");
        assert_eq!(x("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.2.0.1"]), FAR, "several headers are one list");
        assert_eq!(x("10.0.0.1", &["10.3.0.1, 10.2.0.1"]), "10.3.0.1", "a client inside");
    }

    #[test]
    fn addresses_may_have_brackets_and_ports() {
        for form in ["203.0.113.9:4711", "::ffff:203.0.113.9", "[::ffff:203.0.113.9]:1", "[::ffff:cb00:7109]"] {
            assert_eq!(x("10.0.0.1", &[form]), FAR, "{form}");
        }
        for form in ["2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:443"] {
            assert_eq!(x("::1", &[form]), "2001:db8::7", "{form}");
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk_at_the_last_proxy() {
        for garbage in
            ["unknown", "", "203.0.113.9:x", "[2001:db8::7", "203.0.113", "\u{fc}", "1.1.1.1 2.2.2.2", "10.0.0.0/8"]
        {
            assert_eq!(x("10.0.0.1", &[&format!("1.1.1.1, {garbage}, 10.5.5.5")]), "10.5.5.5", "{garbage}");
            assert_eq!(x("10.0.0.1", &["1.1.1.1", garbage]), "10.0.0.1", "{garbage}");
        }
    }

    #[test]
    fn rfc_7239_is_read_with_quotes_ports_and_other_parameters() {
        assert_eq!(rfc(&["for=203.0.113.9"]), FAR);
        assert_eq!(rfc(&["for=1.1.1.1, For=\"203.0.113.9:80\";proto=https; by=10.0.0.1 , for=10.4.4.4"]), FAR);
        assert_eq!(rfc(&["proto=http;for=\"[2001:db8::7]:4711\";host=\"a,b;c\""]), "2001:db8::7");
        assert_eq!(rfc(&["for=1.1.1.1", "for=203.0.113.9"]), FAR);
        for hidden in ["for=_gazonk", "for=unknown", "proto=https", "for=\"\"", ""] {
            assert_eq!(rfc(&["for=1.1.1.1", hidden]), "10.0.0.1", "{hidden}");
        }
    }

    #[test]
    fn a_client_cannot_reach_into_what_the_proxy_appends() {
        for invention in [
            "for=1.1.1.1, for=2.2.2.2;x=\"",
            "for=2.2.2.2;x=\"a\\",
            "for=\"",
            "for=2.2.2.2;x=\"\\\"",
            "=",
            "for=2.2.2.2\"",
        ] {
            assert_eq!(rfc(&[&format!("{invention}, for=\"[2001:db8::7]\"")]), "10.0.0.1", "{invention}");
        }
    }

    #[test]
    fn only_the_header_that_proxies_write_is_read() {
        let trusted: TrustedProxies = serde_json::from_str(r#"["10.0.0.1"]"#).unwrap();
        let mut headers = HeaderMap::new();
        headers.append("forwarded", HeaderValue::from_static("for=1.1.1.1"));
        headers.append("x-forwarded-for", HeaderValue::from_static(FAR));
        let client =
            |header| Proxies { trusted: trusted.clone(), header }.client("10.0.0.1".parse().unwrap(), &headers);
        assert_eq!(client(ProxyHeader::XForwardedFor).to_string(), FAR);
        assert_eq!(client(ProxyHeader::Forwarded).to_string(), "1.1.1.1");
    }

    #[test]
    fn what_is_no_network_is_refused_by_name() {
        let problem = serde_json::from_str::<TrustedProxies>(r#"["10.0.0.0/8", "proxy.local"]"#).unwrap_err();
        assert!(problem.to_string().contains("`proxy.local`"), "{problem}");
    }

    proptest! {
        /// Whatever a client writes before, the proxy's word about it stands.
        #[test]
        fn nothing_a_client_sends_moves_it_to_another_address(
            invention in r#"[a-z0-9=;:,.\[\]"\\ ]{0,60}"#, quoted: bool, rfc_7239: bool,
        ) {
            let own = if quoted { "\"198.51.100.7:80\"" } else { "198.51.100.7" };
            let (header, appended) = match rfc_7239 {
                true => (ProxyHeader::Forwarded, format!("{invention}, for={own}")),
                false => (ProxyHeader::XForwardedFor, format!("{invention}, 198.51.100.7")),
            };
            let found = client(header, "10.0.0.1", &[&appended]);
            prop_assert!(found == "198.51.100.7" || found == "10.0.0.1", "{} from {}", found, appended);
        }
    }
}
