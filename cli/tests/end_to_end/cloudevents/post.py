"""Posts CloudEvents with the Python SDK, in every mode, and prints each answer: post.py URL TIME"""

import sys
import urllib.request
from datetime import datetime

from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

url, time = sys.argv[1], datetime.fromisoformat(sys.argv[2])


def event(id, data, **more):
    attributes = {"id": id, "source": "urn:python", "type": "reading", "time": time, **more}
    return CloudEvent(attributes=attributes, data=data)


def post(message):
    request = urllib.request.Request(url, data=message.body, headers=dict(message.headers), method="POST")
    with urllib.request.urlopen(request) as response:
        print(response.read().decode())


# The SDK makes no batches; this is what its format makes of each event, in an array.
def to_batch(events):
    body = b"[" + b",".join(JSONFormat().write(event) for event in events) + b"]"
    return HTTPMessage(headers={"content-type": "application/cloudevents-batch+json"}, body=body)


object_type = {"datacontenttype": "application/json"}
subject = 'Gerät "7" €'
post(to_structured_event(event("py-structured", {"temp": 1.5, "source": "mine"}, subject=subject, **object_type)))
post(to_binary_event(event("py-binary", {"temp": 2.5, "text": "é\n"}, subject=subject, site="Köln %", **object_type)))
post(to_binary_event(event("py-text", "warm\n", subject=subject, datacontenttype="text/plain")))
post(to_binary_event(event("py-bytes", b"\x00\xff", datacontenttype="application/octet-stream")))
post(to_structured_event(event("py-base64", b"\x00\xff", datacontenttype="application/octet-stream")))
post(to_batch([event(f"py-batch-{n}", {"temp": n}, subject=subject, **object_type) for n in range(3)]))
