#!/usr/bin/env python3
"""usage: sensor | device.py URL DEVICE_ID BUFFER

Sends readings, one JSON object a line on standard input, as events of a device. They wait in the file BUFFER (SQLite)
until a gateway has them, and go on where they were after a crash. LAKEHOSE_KEY is sent as API key, if it is set.
"""

import http.client
import json
import os
import random
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

BATCH = 100  # events in a request
ROOM = 100_000  # events in the buffer
TIMEOUT = 30
LONGEST_PAUSE = 60
# No clock of a device that was just switched on is right before this.
CLOCK_IS_SET = 1_700_000_000


class Buffer:
    """Events in their order. Those of a batch under way keep its key, so that a batch is the same each time."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, event TEXT, batch TEXT)")

    def run(self, sql, *values):
        with self.lock:
            return self.db.execute(sql, values).fetchall()

    def add(self, event):
        self.run("INSERT INTO events (event) VALUES (?)", json.dumps(event))
        # When there is no room, the oldest goes, but none of the batch under way.
        self.run(
            "DELETE FROM events WHERE (SELECT count(*) FROM events) > ? AND seq IN"
            " (SELECT seq FROM events WHERE batch IS NULL ORDER BY seq LIMIT 1)",
            ROOM,
        )

    def batch(self, size):
        """The batch under way, or a new one: its key and its events."""
        under_way = self.run("SELECT batch, event FROM events WHERE batch IS NOT NULL ORDER BY seq")
        if not under_way:
            self.run(
                "UPDATE events SET batch = ? WHERE seq IN (SELECT seq FROM events ORDER BY seq LIMIT ?)",
                str(uuid.uuid4()),
                size,
            )
            under_way = self.run("SELECT batch, event FROM events WHERE batch IS NOT NULL ORDER BY seq")
        return (under_way[0][0] if under_way else None), [event for _, event in under_way]

    def done(self):
        self.run("DELETE FROM events WHERE batch IS NOT NULL")

    def cut_anew(self):
        self.run("UPDATE events SET batch = NULL")


def event(device, reading):
    made = {"id": str(uuid.uuid4()), "device_id": device, "data": reading}
    if time.time() > CLOCK_IS_SET:
        made["time"] = int(time.time() * 1000)
    return made


def post(url, key, events):
    """Status, Retry-After and answer; status 0 if there was none, or not all of it."""
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f'"{key}"'}
    if api_key := os.environ.get("LAKEHOSE_KEY"):
        headers["Authorization"] = f"Bearer {api_key}"
    request = urllib.request.Request(url, "\n".join(events).encode(), headers)
    try:
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            return answer.status, answer.headers.get("Retry-After"), json.loads(answer.read() or "{}")
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None, {}


def send(url, buffer, all_read):
    pause, size = 1, BATCH
    while True:
        key, events = buffer.batch(size)
        if not events:
            if all_read.is_set():
                return
            time.sleep(0.1)
            continue
        status, retry_after, answer = post(url, key, events)
        rejected = answer.get("rejected", [])
        later = any(rejection["reason"] in ("rate_limited", "log_unavailable") for rejection in rejected)
        broken = str(answer.get("type")).endswith(":broken-body")
        if status in (202, 400) and not later and not broken:
            # Stored, or never to be stored.
            for rejection in rejected:
                print("rejected:", rejection, file=sys.stderr)
            buffer.done()
            pause, size = 1, BATCH
            continue
        if status == 413 and len(events) == 1:
            print("too large:", events[0], file=sys.stderr)
            buffer.done()
            continue
        if status == 413:
            size = len(events) // 2
            buffer.cut_anew()
            continue
        if status == 422:
            buffer.cut_anew()
        if status in (401, 403, 404, 405, 415):
            # Somebody must put it right; meanwhile the events stay here.
            print("refused:", answer.get("detail"), file=sys.stderr)
            pause = LONGEST_PAUSE
        # The same batch under the same key again, later; not with all other devices at the same moment.
        wait = int(retry_after) if retry_after and retry_after.isdigit() else pause * random.random()
        time.sleep(wait + random.random())
        pause = min(pause * 2, LONGEST_PAUSE)


def main():
    url, device, path = sys.argv[1:]
    buffer, all_read = Buffer(path), threading.Event()
    sender = threading.Thread(target=send, args=(url, buffer, all_read))
    sender.start()
    for line in sys.stdin:
        buffer.add(event(device, json.loads(line)))
    all_read.set()
    sender.join()


if __name__ == "__main__":
    main()
