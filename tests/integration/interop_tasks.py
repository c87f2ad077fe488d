"""One application for both libraries: ``INTEROP_LIBRARY`` says which of them is imported.

:func:`serve` makes a process of it a client: each line of standard input is JSON ``{"code": ..., "queue":
...}``, code that leaves its ``answer``, and each line of output is the answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

if os.environ["INTEROP_LIBRARY"] == "celery":
    import celery as library
else:
    import celeriac as library

app = library.Celery("interop", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BROKER"])
conf = json.loads(os.environ.get("INTEROP_CONF", "{}"))
broadcast = conf.pop("broadcast", None)
app.conf.update(conf)
if broadcast:
    if library.__name__ == "celery":
        from kombu.common import Broadcast
    else:
        Broadcast = library.Broadcast
    app.conf.task_queues = [Broadcast(broadcast)]
if app.conf.security_key:
    app.setup_security()


class Refused(Exception):
    """An exception that only this module knows."""


def note(text):
    """Append a line to the journal: what really ran, and who ran it."""
    with open(os.environ["INTEROP_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(f"{library.__name__} {text}\n".encode())


@app.task
def add(x, y):
    return x + y


@app.task
def echo(value):
    return value


@app.task
def mark(text):
    note(text)
    return text


@app.task
def boom(text):
    raise ValueError(text)


@app.task
def refuse(a, b):
    raise Refused(a, b)


@app.task(bind=True, max_retries=3)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(exc=RuntimeError("not yet"), countdown=0.1)
    return self.request.retries


@app.task(bind=True)
def retry_late(self):
    raise self.retry(exc=RuntimeError("later"), countdown=60)


@app.task(bind=True)
def swap(self, *steps):
    """Replace the task with a chain of sums on these queues, or with a group if the first is ``group``."""
    first, *queues = steps
    if first == "group":
        raise self.replace(library.group(add.si(n, n).set(queue=queue) for n, queue in enumerate(queues)))
    made = add.si(1, 1).set(queue=first)
    for queue in queues:
        made |= add.s(1).set(queue=queue)
    raise self.replace(made)


@app.task(bind=True)
def widen(self, queue):
    self.add_to_chord(add.si(50, 50).set(queue=queue))
    return 1


@app.task(bind=True)
def stamps(self, *before):
    return [*before, self.request.stamps["job"]]


@app.task
def when():
    return time.time()


@app.task(bind=True)
def header(self, name):
    return (self.request.headers or {}).get(name)


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    while not os.path.exists(os.environ["INTEROP_JOURNAL"] + ".go"):
        time.sleep(0.01)
    return "done"


@app.task(bind=True)
def spawn(self, queue):
    """Start two tasks, which become children of the result."""
    return [add.apply_async((n, n), queue=queue).id for n in (1, 2)]


@app.task
def nap(seconds, text):
    note(f"start {text}")
    time.sleep(seconds)
    note(f"end {text}")
    return text


@app.task
def on_error(request, exc, trace):
    note(f"errback {request.id} {type(exc).__name__}")


def serve():
    namespace = {**globals()}
    for line in sys.stdin:
        request = json.loads(line)

        def call(task, *args, _queue=request["queue"], **options):
            return task.apply_async(args, **{"queue": _queue, **options})

        namespace.update(call=call, Q=request["queue"], answer=None)
        try:
            exec(request["code"], namespace)
            answer = {"answer": namespace["answer"]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # Celery's results are untidy when the interpreter ends
