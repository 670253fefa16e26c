"""What JSON Schema cannot say of a good request to the gateway.

- A line of NDJSON is an event; to a schema the whole body is a string. Here it is the text of an event's `data`.
- `id` and `device_id` may have 128 bytes of UTF-8; `maxLength` counts characters.
- A member beside `data` must not repeat one of `data`, nor be `data_base64`.
- The device of a CloudEvent is its `source` only if there is no `subject`.
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
    names = [event[name] for name in ("id", "device_id", "subject") if isinstance(event.get(name), str)]
    long = [name for name in names if len(name) <= MAX_BYTES < len(name.encode(errors="replace"))]
    source = event.get("source")
    if isinstance(source, str) and len(source.encode(errors="replace")) > MAX_BYTES:
        long.append(source)
    twice = "data_base64" in event and "data" in event
    return not repeated and not long and not twice


@schemathesis.hook
def filter_body(context, body):
    return all(map(is_within_schema_and_contract, body if isinstance(body, list) else [body]))


@schemathesis.hook
def before_call(context, case, kwargs):
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
