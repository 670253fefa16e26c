//! The trace that a request belongs to (W3C Trace Context), continued by the gateway.
//!
//! Only a valid `traceparent` is continued: a header of a record is read by machines that trust it. The gateway is one
//! step of the trace, so what goes on has the trace's id and flags, and as parent the gateway's own span, which its log
//! lines name. A request without a trace is given none: nobody would look for it.

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use uuid::Uuid;

/// Longest `tracestate` that is passed on: what the standard asks for at least.
const MAX_STATE_BYTES: usize = 512;
/// Flags that the standard has given a meaning: sampled, random.
const KNOWN_FLAGS: u8 = 0b11;

/// A trace as the records of a request continue it.
#[derive(Debug, Clone)]
pub(crate) struct TraceContext {
    /// `00-<trace id>-<id of the request's own span>-<flags>`
    parent: String,
    state: Option<Bytes>,
}

impl TraceContext {
    /// The trace of a request that has exactly one `traceparent`, and a valid one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<TraceContext> {
        let mut values = headers.get_all("traceparent").iter();
        let value = values.next().map(HeaderValue::as_bytes)?;
        let incoming = if values.next().is_none() { Incoming::parse(value)? } else { return None };
        let Incoming { trace_id, flags } = incoming;
        // Half of a random UUID: 62 random bits, and two fixed ones that keep it from being zero.
        let (_, span_id) = Uuid::new_v4().as_u64_pair();
        Some(TraceContext {
            parent: format!("00-{trace_id}-{span_id:016x}-{:02x}", flags & KNOWN_FLAGS),
            state: state(headers),
        })
    }

    pub(crate) fn trace_id(&self) -> &str {
        &self.parent[3..35]
    }

    /// Of the gateway's own part of the trace.
    pub(crate) fn span_id(&self) -> &str {
        &self.parent[36..52]
    }

    /// What every record of a request carries.
    pub(crate) fn headers(&self) -> Vec<(&'static str, Bytes)> {
        let parent = ("traceparent", Bytes::copy_from_slice(self.parent.as_bytes()));
        let state = self.state.clone().map(|state| ("tracestate", state));
        [parent].into_iter().chain(state).collect()
    }
}

/// What is used of a valid `traceparent`.
#[derive(Debug, PartialEq, Eq)]
struct Incoming<'a> {
    trace_id: &'a str,
    flags: u8,
}

impl<'a> Incoming<'a> {
    /// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, lower case, neither id all zero. A later version may append
    /// more fields.
    fn parse(value: &'a [u8]) -> Option<Incoming<'a>> {
        let (known, rest) = value.split_at_checked(55)?;
        let known = str::from_utf8(known).ok().filter(|text| text.is_ascii())?;
        let (version, trace_id, parent_id, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
        let dashes = [2, 35, 52].into_iter().all(|at| known.as_bytes()[at] == b'-');
        let hex = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let some = |digits: &str| digits.bytes().any(|b| b != b'0');
        let ending = match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let fields = [version, trace_id, parent_id, flags].into_iter().all(hex) && some(trace_id) && some(parent_id);
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (dashes && ending && fields).then_some(Incoming { trace_id, flags })
    }
}

/// The request's `tracestate`, its lines joined; not if it is too long or no list of `key=value`.
fn state(headers: &HeaderMap) -> Option<Bytes> {
    let mut joined = Vec::new();
    for line in headers.get_all("tracestate") {
        if !joined.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(line.as_bytes());
        if joined.len() > MAX_STATE_BYTES {
            return None;
        }
    }
    let text = str::from_utf8(&joined).ok()?;
    let mut members = text.split(',').map(str::trim).filter(|member| !member.is_empty()).peekable();
    members.peek()?;
    members.all(is_member).then(|| joined.into())
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let in_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
    let in_value = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    !key.is_empty() && key.bytes().all(in_key) && !value.is_empty() && value.bytes().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_valid_values_are_continued() {
        let trace = |value: &str| Incoming::parse(value.as_bytes()).map(|incoming| incoming.trace_id.to_owned());
        assert_eq!(trace(GOOD).as_deref(), Some(TRACE));
        let later = GOOD.replacen("00-", "cc-", 1).replace("-01", "-01-more");
        assert_eq!(trace(&later).as_deref(), Some(TRACE));
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replace(TRACE, &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &"é".repeat(30),
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_trace_goes_on_under_a_span_of_the_gateway() {
        let context = TraceContext::of(&headers(&[("traceparent", GOOD)])).unwrap();
        let again = TraceContext::of(&headers(&[("traceparent", GOOD)])).unwrap();
        assert_eq!((context.trace_id(), context.parent.len()), (TRACE, 55));
        assert!(context.parent.ends_with("-01") && Incoming::parse(context.parent.as_bytes()).is_some());
        assert_ne!(context.span_id(), "00f067aa0ba902b7");
        assert_ne!(context.span_id(), again.span_id());
    }

    #[test]
    fn flags_are_kept_as_far_as_they_are_known() {
        let flags = |flags: &str| {
            let value = GOOD.replace("-01", flags).replacen("00-", "01-", 1);
            TraceContext::of(&headers(&[("traceparent", &value)])).unwrap().parent.split_off(53)
        };
        assert_eq!(["-00", "-01", "-03", "-ff"].map(flags), ["00", "01", "03", "03"]);
    }

    #[test]
    fn two_parents_are_none() {
        assert!(TraceContext::of(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])).is_none());
    }

    #[test]
    fn a_state_is_passed_on_only_if_it_is_short_and_well_formed() {
        let state = |lines: &[&str]| state(&headers(&lines.iter().map(|l| ("tracestate", *l)).collect::<Vec<_>>()));
        assert_eq!(state(&["rojo=00f067aa0ba902b7", "congo=t61"]).unwrap(), "rojo=00f067aa0ba902b7,congo=t61");
        for bad in [vec![], vec![""], vec!["rojo"], vec!["Rojo=1"], vec!["a=b=c"], vec!["=1"], vec!["a=\u{e9}"]] {
            assert_eq!(state(&bad), None, "{bad:?}");
        }
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), None);
    }
}
