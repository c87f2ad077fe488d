"""The application that the integration tests' workers run; broker and settings come by environment."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import time

from celeriac import Broadcast, Celeriac, Queue
from celeriac.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celeriac.worker.control import inspect_command

app = Celeriac("project", broker=os.environ.get("TEST_BROKER"), backend=os.environ.get("TEST_BACKEND"))
conf = json.loads(os.environ.get("TEST_CONF", "{}"))
broadcast = conf.pop("broadcast", [])
app.conf.update(conf)
if broadcast:
    app.conf.task_queues = [Queue("celery"), *map(Broadcast, broadcast)]


def note(text: str) -> None:
    """Append a line to the journal: what really ran, and how often."""
    with open(os.environ["TEST_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(text.encode() + b"\n")


@inspect_command(args=[("text", str)])
def echo(state, text="nothing"):
    """Say it again."""
    return {"text": text, "hostname": state.hostname}


@app.task
def add(x, y):
    return x + y


@app.task
def mark(text):
    note(text)
    return text


@app.task
def nap(seconds, text="nap"):
    note(f"start {text}")
    time.sleep(seconds)
    note(f"end {text}")
    return text


@app.task
def hold_interpreter(text):
    """A second or more in C code that does not release the interpreter."""
    note(f"start {text}")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        pow(7, 900_000)
    note(f"end {text}")


@app.task
def hold_for(seconds, text):
    """As many seconds in one call of C code that does not release the interpreter."""
    note(f"start {text}")
    ctypes.PyDLL(None).sleep(seconds)
    note(f"end {text}")
    return text


@app.task
def boom(text="boom"):
    raise ValueError(text)


@app.task
def keep_secret(password="", text=""):
    return {"password": password, "text": text}


@app.task
def die(text):
    note(f"die {text}")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def die_once(text):
    """Kill the process at the first run, succeed at the second."""
    path = os.environ["TEST_JOURNAL"] + "." + text
    note(f"run {text}")
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task(acks_late=False)
def die_early_acked(text):
    note(f"run {text}")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=False)
def nap_once(seconds, text):
    note(f"start {text}")
    time.sleep(seconds)
    note(f"end {text}")
    return text


@app.task(bind=True, max_retries=5, default_retry_delay=0.05)
def flaky(self, failures):
    note(f"try {self.request.retries}")
    if self.request.retries < failures:
        raise self.retry(exc=RuntimeError("not yet"))
    return self.request.retries


@app.task(autoretry_for=(RuntimeError,), retry_backoff=0.05, retry_jitter=False, max_retries=2)
def always_failing():
    note("try")
    raise RuntimeError("still")


@app.task(soft_time_limit=0.3, time_limit=5)
def soft():
    try:
        time.sleep(10)
    except SoftTimeLimitExceeded:
        note("soft")
        return "cleaned up"


@app.task(time_limit=0.4)
def hard():
    note("hard")
    time.sleep(30)


@app.task(bind=True)
def who(self):
    return {
        "pid": os.getpid(),
        "hostname": self.request.hostname,
        "token": self.request.delivery_token,
        "queue": self.request.queue,
    }


@app.task
def ignore():
    raise Ignore()


@app.task
def reject(requeue=False):
    path = os.environ["TEST_JOURNAL"] + ".requeued"
    note("reject")
    if requeue and os.path.exists(path):
        return "second time"
    open(path, "w").close()
    raise Reject("no thanks", requeue=requeue)


@app.task(rate_limit="5/s")
def limited(number):
    note(f"limited {number} {time.time()}")


@app.task
async def coroutine(seconds, text):
    await asyncio.sleep(seconds)
    note(f"coroutine {text}")
    return text


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1, "total": 2})
    time.sleep(0.5)
    return "done"


@app.task(bind=True)
def tell_steps(self, count):
    for done in range(1, count + 1):
        self.progress(done, count, note=f"step {done}")
        time.sleep(0.12)
    return count


@app.task(bind=True)
async def async_tell_steps(self, count):
    for done in range(1, count + 1):
        await self.aprogress(done, count, note=f"step {done}")
        await asyncio.sleep(0.12)
    return count


@app.task
def greedy(kib):
    """Keep memory."""
    keep.append(bytearray(kib * 1024))
    return os.getpid()


keep: list[bytearray] = []


@app.task
def unserialisable():
    return object()


@app.task
def on_error(task_id):
    note(f"errback {task_id}")


@app.task
def hear(request, error, traceback):
    """An error callback that is called where the failure is taken down."""
    note(f"hear {request.id} {type(error).__name__}")


@app.task
def total(values):
    note(f"total {values}")
    return sum(values)


@app.task
def gather(values):
    return values


@app.task(bind=True)
def invite(self, value):
    """Bring another task into the chord's header."""
    self.add_to_chord(add.s(value, 100))
    return value


@app.task
def spin(seconds):
    """Busy Python code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@app.task(max_concurrency=2)
def crowded(seconds, text):
    note(f"start {text}")
    time.sleep(seconds)
    note(f"end {text}")


@app.task(max_concurrency=1, concurrency_key="{tenant}")
def tenant_dies_once(tenant, text):
    """Hold the only place of the tenant; the first run dies with it."""
    path = f"{os.environ['TEST_JOURNAL']}.{tenant}"
    note(f"run {text}")
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return text


@app.task(bind=True)
def steps(self, count):
    """Do one step after another; die in the middle of the first run."""
    first = self.request.checkpoint or 0
    for number in range(first, count):
        note(f"step {number}")
        self.checkpoint(number + 1)
        if number == count // 2 and first == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return first


@app.task(unique_for=60, unique_key="{name}")
def only_one(name, seconds=0.0):
    note(f"only {name}")
    time.sleep(seconds)
    return name


@app.task(bind=True)
def report(self, done):
    self.send_event("task-progress", done=done)
    self.send_event("shop-paid", amount=done)
    return done
