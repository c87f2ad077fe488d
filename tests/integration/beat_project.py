"""The application of the tests with real beats: its entries come by environment."""

from __future__ import annotations

import json
import os
import time

from celeriac import Celeriac

app = Celeriac(
    os.environ.get("TEST_NAME", "project"),
    broker=os.environ["TEST_BROKER"],
    backend=os.environ.get("TEST_BACKEND"),
)
app.conf.result_expires = None
app.conf.beat_schedule = json.loads(os.environ.get("TEST_SCHEDULE", "{}"))


@app.task
def nap(seconds):
    mark.run("start")
    time.sleep(seconds)
    mark.run("end")


@app.task
def mark(text="tick"):
    with open(os.environ["TEST_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(text.encode() + b"\n")
    return text
