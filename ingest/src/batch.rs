//! Decides which events of a request go to the log, and makes their records.
//!
//! Pure but for the device limits. Events are taken in their order:
//!
//! - An event that `lake::event` refuses is rejected alone.
//! - One of a device that the caller's key or token is not for is rejected alone.
//! - One that repeats the `device_id` and `id` of an earlier one in this request is a duplicate and not stored again.
//! - Once an event of a device is over the device's limit, so are all later ones of that device in this request. Else
//!   the rate could grant a later event while the earlier one must be sent again, and the device's order would break.
//! - An event larger than the device's limit ever lets through is rejected for good, alone.

use crate::answer::{Report, Why};
use crate::auth::Devices;
use crate::cloudevents::Refused;
use crate::limits::{Exceeded, Limits, Over, TooMuch};
use bytes::Bytes;
use eventlog::NewRecord;
use lake::event::{Event, Reason};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// What applies to all events of a request.
pub(crate) struct Rules<'a> {
    pub(crate) limits: &'a Limits,
    /// Whose events the caller may post.
    pub(crate) devices: &'a Devices,
    /// When the request was received, microseconds since the epoch.
    pub(crate) now: i64,
    /// Oldest and furthest `time` allowed, in microseconds from now.
    pub(crate) max_age: i64,
    pub(crate) max_ahead: i64,
    /// Headers of every record, for who follows a trace.
    pub(crate) trace: Vec<(&'static str, Bytes)>,
    /// Why events are empty that could not be translated, by index.
    pub(crate) untranslated: HashMap<usize, &'a Refused>,
}

/// The events of a request, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order of the request.
    pub(crate) records: Vec<NewRecord>,
    /// The position in the request of each record.
    pub(crate) indexes: Vec<usize>,
    /// What is already decided.
    pub(crate) report: Report,
    /// What the limits of devices refused: the longest wait, or else what can never pass.
    pub(crate) over: Option<Over>,
}

/// Sorts out `events`, which are slices of `body`.
pub(crate) fn sort_out(body: &Bytes, events: &[&str], rules: &Rules<'_>) -> Batch {
    let mut batch = Batch {
        records: Vec::with_capacity(events.len()),
        indexes: Vec::with_capacity(events.len()),
        ..Batch::default()
    };
    let mut seen = Seen::default();
    let mut held_back = HeldBack::default();
    let received_at = Bytes::from(rules.now.to_string());

    for (index, text) in events.iter().enumerate() {
        let event = match Event::parse(text.as_bytes()) {
            Ok(event) => event,
            Err(invalid) => {
                match rules.untranslated.get(&index) {
                    Some(refused) => refused.report(index, &mut batch.report),
                    None => batch.report.invalid(index, &invalid, None),
                }
                continue;
            }
        };
        if !rules.devices.allow(&event.device_id) {
            let detail = || "the key or token of this request may not post for this device".to_owned();
            batch.report.reject(index, Why::DeviceNotAllowed, || event.id.as_deref().map(str::to_owned), detail);
            continue;
        }
        if let Err(invalid) = event.check_time(rules.now, rules.max_age, rules.max_ahead) {
            batch.report.invalid(index, &invalid, event.id.as_deref());
            continue;
        }
        if events.len() > 1 && seen.before(&event) {
            batch.report.duplicates += 1;
            continue;
        }
        if let Err(over) = held_back.check(&event, text.len(), rules.limits) {
            batch.refuse(index, event.id.as_deref(), over);
            continue;
        }
        batch.records.push(record(body, text, event, &received_at, &rules.trace));
        batch.indexes.push(index);
    }
    batch
}

impl Batch {
    /// Lists an event that the limit of its device refuses.
    fn refuse(&mut self, index: usize, id: Option<&str>, over: Over) {
        let id = || id.map(str::to_owned);
        match over {
            Over::Wait(Exceeded { wait, .. }) => {
                let seconds = wait.as_secs_f64();
                let detail = || format!("the device is over its limit; send the event again in {seconds:.1} s");
                self.report.reject(index, Why::RateLimited, id, detail);
                if !matches!(self.over, Some(Over::Wait(longest)) if longest.wait >= wait) {
                    self.over = Some(over);
                }
            }
            Over::Never(TooMuch { largest, .. }) => {
                let detail = || format!("the device may send {largest} bytes at once, and this event has more");
                self.report.reject(index, Why::Invalid(Reason::TooLarge), id, detail);
                self.over.get_or_insert(over);
            }
        }
    }
}

/// The record of an event: the device's own bytes, and what only the gateway knows as headers.
///
/// `id` is the event's, or a new UUIDv7 (which cannot recognise a repetition). `received_at` is in microseconds since
/// the epoch, as decimal digits.
fn record(
    body: &Bytes,
    text: &str,
    event: Event<'_>,
    received_at: &Bytes,
    trace: &[(&'static str, Bytes)],
) -> NewRecord {
    let id = match event.id {
        Some(id) => share(body, id),
        None => Bytes::copy_from_slice(Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes()),
    };
    let mut headers = Vec::with_capacity(2 + trace.len());
    headers.push(("id", id));
    headers.push(("received_at", received_at.clone()));
    headers.extend_from_slice(trace);
    NewRecord { key: share(body, event.device_id), value: body.slice_ref(text.as_bytes()), headers }
}

/// Text without escapes is a slice of the body.
fn share(body: &Bytes, text: Cow<'_, str>) -> Bytes {
    match text {
        Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    }
}

/// The ids of a request so far.
#[derive(Default)]
struct Seen<'a>(HashSet<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Seen<'a> {
    fn before(&mut self, event: &Event<'a>) -> bool {
        let Some(id) = &event.id else { return false };
        !self.0.insert((event.device_id.clone(), id.clone()))
    }
}

/// The most events, and the most bytes, that one device has in a request, those left aside that repeat others.
pub(crate) fn most_of_one_device(events: &[&str]) -> (usize, usize) {
    let (mut seen, mut amounts) = (Seen::default(), HashMap::<_, (usize, usize)>::new());
    for text in events {
        let Ok(event) = Event::parse(text.as_bytes()) else { continue };
        if !seen.before(&event) {
            let (events, bytes) = amounts.entry(event.device_id).or_default();
            *events += 1;
            *bytes += text.len();
        }
    }
    amounts.into_values().fold((0, 0), |most, of_one| (most.0.max(of_one.0), most.1.max(of_one.1)))
}

/// The devices of a request that are over their limit, with what of each must come again.
#[derive(Default)]
struct HeldBack<'a>(HashMap<Cow<'a, str>, Waiting>);

struct Waiting {
    first: Exceeded,
    events: usize,
    bytes: usize,
}

impl<'a> HeldBack<'a> {
    fn check(&mut self, event: &Event<'a>, bytes: usize, limits: &Limits) -> Result<(), Over> {
        if !self.0.is_empty()
            && let Some(waiting) = self.0.get_mut(&event.device_id)
        {
            if let Some(too_much) = limits.device_never(bytes) {
                return Err(Over::Never(too_much));
            }
            waiting.events += 1;
            waiting.bytes += bytes;
            let all = limits.device_again(&event.device_id, waiting.events, waiting.bytes);
            return Err(Over::Wait(all.unwrap_or(waiting.first)));
        }
        limits.device(&event.device_id, bytes).inspect_err(|over| {
            if let Over::Wait(first) = *over {
                self.0.insert(event.device_id.clone(), Waiting { first, events: 1, bytes });
            }
        })
    }
}

#[cfg(test)]
mod tests;
