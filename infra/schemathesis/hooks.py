"""What JSON Schema cannot say of a good request to the gateway.

- A line of NDJSON is an event; to a schema the whole body is a string.
- `id` and `device_id` may have 128 bytes of UTF-8; `maxLength` counts characters.
- A member beside `data` must not repeat one of `data`.
- An `Idempotency-Key` belongs to one body: each request has a new one.
"""

import json
import uuid

import schemathesis
from hypothesis import strategies as st

MEMBERS = {"id", "device_id", "type", "time", "data"}
MAX_BYTES = 128

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_BYTES // 4)
event = st.fixed_dictionaries({"device_id": text}, optional={"id": text, "type": text, "data": st.just({"n": 1})})
lines = st.lists(event, min_size=1, max_size=5).map(lambda events: "\n".join(map(json.dumps, events)).encode())
schemathesis.openapi.media_type("application/x-ndjson", lines)


def is_told_apart_by_schema(event):
    if not isinstance(event, dict):
        return True
    data = event.get("data")
    repeated = isinstance(data, dict) and (event.keys() - MEMBERS) & data.keys()
    names = [event[name] for name in ("id", "device_id") if isinstance(event.get(name), str)]
    long = [name for name in names if len(name) <= MAX_BYTES < len(name.encode(errors="replace"))]
    return not repeated and not long


@schemathesis.hook
def filter_body(context, body):
    return all(map(is_told_apart_by_schema, body if isinstance(body, list) else [body]))


@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get("Idempotency-Key", "")
    if len(key) > 2 and key[0] == key[-1] == '"':
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
