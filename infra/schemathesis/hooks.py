"""What JSON Schema cannot say of a good request to the gateway.

- A line of NDJSON is an event; to a schema the whole body is a string. Here it is the text of an event's `data`.
- `id` and `device_id` may have 128 bytes of UTF-8; `maxLength` counts characters.
- A member beside `data` must not repeat one of `data`.
- An `Idempotency-Key` is a string of a structured field, and belongs to one body: each request has a new one.
"""

import json
import uuid

import schemathesis

MEMBERS = {"id", "device_id", "type", "time", "data"}
MAX_BYTES = 128


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    is_example = isinstance(value, str) and value.startswith('{"')
    if isinstance(value, str) and not is_example:
        value = {"device_id": "of-a-line", "data": {"text": value}}
    return (value if is_example else json.dumps(value)).encode()


def is_within_schema_and_contract(event):
    if not isinstance(event, dict):
        return True
    data = event.get("data")
    repeated = isinstance(data, dict) and (event.keys() - MEMBERS) & data.keys()
    names = [event[name] for name in ("id", "device_id") if isinstance(event.get(name), str)]
    long = [name for name in names if len(name) <= MAX_BYTES < len(name.encode(errors="replace"))]
    return not repeated and not long


@schemathesis.hook
def filter_body(context, body):
    return all(map(is_within_schema_and_contract, body if isinstance(body, list) else [body]))


@schemathesis.hook
def before_call(context, case, kwargs):
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
