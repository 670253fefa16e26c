//! The names under which one request is found again: in its answer, in log lines, in the headers of its records.
//!
//! A layer around all routes. It takes the request's `X-Request-Id` or makes one, continues its trace
//! ([`TraceContext`]), and handles the request in a tracing span, so every log line written meanwhile has `request_id`
//! and, within a trace, `trace_id` and `span_id`. The id is kept with the task that handles the request: a refusal knows
//! it wherever it is made, and nobody has to hand it down.

use crate::audit::{self, Line};
use crate::routes::Gateway;
use crate::trace_context::TraceContext;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{Instrument, Span, error_span};
use uuid::Uuid;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over.
const MAX_ID_BYTES: usize = 128;

tokio::task_local! {
    static REQUEST: Arc<Correlation>;
}

/// What is known of the request that a task handles.
struct Correlation {
    id: HeaderValue,
    audit: Option<Mutex<Line>>,
}

/// Handles a request under its names.
pub(crate) async fn around(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let trace = TraceContext::of(request.headers());
    let span = span(&id, trace.as_ref());
    if let Some(trace) = trace {
        request.extensions_mut().insert(trace);
    }
    let audit = gateway.audit.then(|| Mutex::new(Line::new(&request, &gateway.proxies)));
    let echoed = id.clone();
    let handled = async {
        let mut response = next.run(request).await;
        audit::note(|line| line.answered(&response));
        response.headers_mut().insert(REQUEST_ID, echoed);
        response
    };
    REQUEST.scope(Arc::new(Correlation { id, audit }), handled).instrument(span).await
}

/// The rest of a request, for another task to handle under the same names.
pub(crate) fn carried<F: Future>(rest: F) -> impl Future<Output = F::Output> {
    let request = REQUEST.try_with(Arc::clone).ok();
    let handled = async {
        match request {
            Some(request) => REQUEST.scope(request, rest).await,
            None => rest.await,
        }
    };
    handled.in_current_span()
}

/// The id of the request that this task handles, as its answer names it.
pub(crate) fn current_id() -> Option<String> {
    REQUEST.try_with(|request| request.id.to_str().ok().map(str::to_owned)).ok().flatten()
}

/// The audit line of the request that this task handles, if lines are wanted.
pub(crate) fn with_audit(write: impl FnOnce(&mut Line)) {
    // Outside of a request there is none.
    let _ = REQUEST.try_with(|request| {
        // A panic while it was written leaves a line with less in it.
        request.audit.as_ref().map(|line| write(&mut line.lock().unwrap_or_else(PoisonError::into_inner)))
    });
}

/// The request's own id if it has one that cannot be mistaken for anything else in a log line; else a new UUIDv7.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_plain(id.as_bytes()) => id.clone(),
        _ => new_id(),
    }
}

fn is_plain(id: &[u8]) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(|b| b.is_ascii_graphic() && !b"\"'`\\".contains(b))
}

fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("hex digits and dashes")
}

/// At the highest level, so that lines of every level are within it, whatever the filter lets through.
fn span(id: &HeaderValue, trace: Option<&TraceContext>) -> Span {
    let request_id = id.to_str().unwrap_or_default();
    match trace {
        Some(trace) => error_span!(
            "request",
            request_id = %request_id,
            trace_id = %trace.trace_id(),
            span_id = %trace.span_id()
        ),
        None => error_span!("request", request_id = %request_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(values: &[&'static [u8]]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        }
        request_id(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn an_id_is_taken_over_only_if_it_cannot_be_mistaken_for_anything_else() {
        assert_eq!(id_of(&[b"a-1:/+=_~"]), "a-1:/+=_~");
        assert_eq!(id_of(&[&[b'x'; 128]]).len(), 128);
        let bad: [&[&'static [u8]]; 7] =
            [&[], &[b""], &[&[b'x'; 129]], &[b"a b"], &[b"a\"b"], &["\u{e9}".as_bytes()], &[b"a", b"b"]];
        for values in bad {
            let id = id_of(values);
            assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 7, "{values:?} {id}");
        }
    }

    #[test]
    fn outside_of_a_request_there_are_no_names() {
        assert_eq!(current_id(), None);
        with_audit(|_| panic!("nothing to note"));
    }
}
