//! A CloudEvent that is one JSON object.

use super::{CloudEvent, Data, Refused, with_id};
use crate::answer::Why;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lake::event::{Reason, each_member};
use serde_json::value::RawValue;
use std::borrow::Cow;

pub(crate) fn read(text: &str) -> Result<CloudEvent<'_>, Refused> {
    let object: &RawValue =
        serde_json::from_str(text).map_err(|err| Refused::new(Why::Invalid(Reason::InvalidJson), err.to_string()))?;
    if !object.get().starts_with('{') {
        return Err(Refused::new(Why::Invalid(Reason::NotAnObject), "a CloudEvent must be a JSON object"));
    }
    let mut event = CloudEvent::default();
    let mut outcome = Ok(());
    each_member(object, &mut |name, value| {
        if outcome.is_ok() {
            outcome = take(&mut event, name, value.get());
        }
    });
    outcome = outcome.and_then(|()| event.check());
    with_id(event, outcome)
}

fn take<'a>(event: &mut CloudEvent<'a>, name: &str, value: &'a str) -> Result<(), Refused> {
    let data = match name {
        _ if value == "null" => return Ok(()),
        "data" if value.starts_with('{') => Data::Object(value),
        "data" => Data::Value(value.into()),
        "data_base64" => Data::Base64(base64(value)?),
        _ => return event.set(name.to_owned().into(), value.into()),
    };
    match event.data.replace(data) {
        Some(_) => {
            let detail = "`data` or `data_base64` may be given, and only once";
            Err(Refused::new(Why::Invalid(Reason::AmbiguousMember), detail))
        }
        None => Ok(()),
    }
}

fn base64(value: &str) -> Result<Cow<'_, str>, Refused> {
    let is_base64 = serde_json::from_str::<Cow<'_, str>>(value).is_ok_and(|text| STANDARD.decode(&*text).is_ok());
    if !is_base64 {
        return Err(Refused::new(Why::Invalid(Reason::InvalidData), "`data_base64` must be a string of base64"));
    }
    Ok(value.into())
}
