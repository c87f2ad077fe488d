"""The application of the beats that are killed."""

from __future__ import annotations

import os

from celeriac import Celeriac

app = Celeriac("beats", broker=os.environ["FAULTS_BROKER"])
app.conf.result_expires = None


@app.task(name="tick")
def tick():
    pass
