//! Which `traceparent` is worth passing on to the record.
//!
//! Only a valid one (W3C Trace Context): a header of a record is read by machines that trust it.

use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;

/// The request's `traceparent`, if it has exactly one and it is valid.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<Bytes> {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next().map(HeaderValue::as_bytes)?;
    (values.next().is_none() && is_valid(value)).then(|| Bytes::copy_from_slice(value))
}

/// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, lower case, neither id all zero. A later version may append
/// more fields.
fn is_valid(value: &[u8]) -> bool {
    let Some((known, rest)) = value.split_at_checked(55) else { return false };
    let version = &known[..2];
    let (trace_id, parent_id, flags) = (&known[3..35], &known[36..52], &known[53..55]);
    let dashes = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    let hex = |digits: &[u8]| digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let some = |digits: &[u8]| digits.iter().any(|b| *b != b'0');
    let ending = match version {
        b"00" => rest.is_empty(),
        b"ff" => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    dashes && ending && [version, trace_id, parent_id, flags].into_iter().all(hex) && some(trace_id) && some(parent_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_values_are_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_valid(good.as_bytes()));
        assert!(is_valid(good.replacen("00-", "cc-", 1).replace("-01", "-01-more").as_bytes()));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("{good}-more"),
            &good.replacen("00-", "ff-", 1),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &good.replace('-', "_"),
            &"é".repeat(30),
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
