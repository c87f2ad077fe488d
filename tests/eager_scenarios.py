"""Eager mode seen from outside, run by this library and by Celery and compared (``test_eager_celery``).

``python eager_scenarios.py celery|celeriac`` prints what came of each scenario, as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from typing import Any

warnings.simplefilter("ignore")
LIBRARY = sys.argv[1] if len(sys.argv) > 1 else "celeriac"
celery: Any = import_module(LIBRARY)
signals: Any = import_module(f"{LIBRARY}.signals")
exceptions: Any = import_module(f"{LIBRARY}.exceptions")
BACKEND = "cache+memory://" if LIBRARY == "celery" else "memory://eager-scenarios"
app = celery.Celery("m", broker=BACKEND.replace("cache+", ""), backend=BACKEND)
log: list[Any] = []


def plain(value: Any) -> Any:
    """A value in words that do not depend on the library."""
    if isinstance(value, exceptions.Retry):
        return ["Retry", plain(value.exc)]
    if isinstance(value, BaseException):
        return [type(value).__name__, plain([] if "retr" in str(value) else list(value.args))]
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, int | float | str) else type(value).__name__


class Base(app.Task):  # type: ignore[misc, name-defined]
    """Notes its hooks."""

    abstract = True

    def before_start(self, *a: Any) -> None:
        log.append("before_start")

    def on_success(self, value: Any, *a: Any) -> None:
        log.append(["on_success", plain(value)])

    def on_failure(self, error: Any, *a: Any) -> None:
        log.append(["on_failure", plain(error)])

    def on_retry(self, *a: Any) -> None:
        log.append("on_retry")

    def after_return(self, state: str, value: Any, *a: Any) -> None:
        log.append(["after_return", state, plain(value)])


def listen(name: str) -> Any:
    def receiver(sender: Any = None, **fields: Any) -> None:
        said = [plain(fields.get(key)) for key in ("state", "retval", "exception", "reason", "result")]
        log.append([name, sender.name, *said])

    getattr(signals, name).connect(receiver, weak=False)


for each in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
    listen(each)


@app.task(base=Base, name="add")
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(base=Base, name="div")
def div(x: int, y: int) -> float:
    return x / y


@app.task(base=Base, name="kind")
def kind(value: Any) -> str:
    return type(value).__name__


@app.task(base=Base, name="again", bind=True, max_retries=2, default_retry_delay=30)
def again(self: Any, good_at: int, with_error: bool = False) -> str:
    request = self.request
    log.append(["run", request.retries, request.is_eager, request.called_directly])
    if request.retries >= good_at:
        return "good"
    raise self.retry(exc=ValueError("bad") if with_error else None, countdown=5)


@app.task(base=Base, name="auto", autoretry_for=(KeyError,), max_retries=1)
def auto() -> None:
    raise KeyError("key")


@app.task(base=Base, name="soft", bind=True, max_retries=1)
def soft(self: Any) -> str:
    self.retry(throw=False)
    return "went on"


@app.task(base=Base, name="leave")
def leave(how: str) -> None:
    raise {
        "ignore": exceptions.Ignore(),
        "reject": exceptions.Reject("why", requeue=False),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
    }[how]


@app.task(base=Base, name="described", bind=True)
def described(self: Any) -> list[Any]:
    request = self.request
    info = request.delivery_info or {}
    return [
        request.id == request.root_id, request.parent_id, request.is_eager, request.called_directly,
        request.retries, request.args, request.kwargs, request.headers, info.get("is_eager"),
        info.get("routing_key"), info.get("exchange"), info.get("priority"), request.eta, request.expires,
        request.timelimit, request.logfile, request.loglevel, request.reply_to,
    ]  # fmt: skip


@app.task(base=Base, name="child", bind=True)
def child(self: Any, root: str) -> list[bool]:
    return [self.request.root_id == root, self.request.parent_id == root]


@app.task(base=Base, name="parent", bind=True)
def parent(self: Any) -> Any:
    return child.apply((self.request.id,)).get()


@app.task(base=Base, name="callback")
def callback(value: Any) -> Any:
    return ["called with", value]


@app.task(base=Base, name="old")
def old(task_id: str) -> str:
    return task_id


@app.task(base=Base, name="new")
def new(request: Any, error: Any, traceback: Any) -> None:
    log.append(["new style", request.task, plain(error), "Traceback" in str(traceback)])


@app.task(base=Base, name="unwanted", ignore_result=True)
def unwanted() -> int:
    return 5


def seen(act: Any) -> Any:
    """What an act returns or raises, and what was noted meanwhile."""
    log.clear()
    try:
        result = act()
        if hasattr(result, "state"):
            result = [
                result.state, plain(result.result), plain(result.get(propagate=False)), result.ready(),
                result.successful(), result.failed(), result.name, isinstance(result.traceback, str)
                and result.state != "IGNORED" and result.state != "REJECTED",
            ]  # fmt: skip
    except BaseException as error:
        result = ["raised", plain(error)]
    return [plain(result), list(log)]


def stored(act: Any) -> Any:
    """The state in the result backend of what ``act`` ran."""
    kept = app.AsyncResult(act().id)
    return [kept.state, plain(kept.result)]


APPLIED = {
    "success": lambda: add.apply((1,), {"y": 2}),
    "failure": lambda: div.apply((1, 0)),
    "failure thrown": lambda: div.apply((1, 0), throw=True),
    "no such argument": lambda: add.apply((1, 2, 3)).state,
    "callback": lambda: add.apply((1, 2), link=callback.s()),
    "callbacks": lambda: add.apply((1, 2), link=[callback.s(), callback.si(9)]),
    "new errback": lambda: div.apply((1, 0), link_error=new.s()),
    "old errback": lambda: div.apply((1, 0), task_id="failed", link_error=[old.s()]),
    "request": lambda: described.apply(),
    "request with options": lambda: described.apply(
        task_id="t", headers={"h": 1}, priority=3, routing_key="k", exchange="x", logfile="l", loglevel=10,
        retries=4, expires=10, countdown=3, time_limit=5,
    ),
    "retry": lambda: again.apply((1,)),
    "retry with error": lambda: again.apply((2, True)),
    "retries exhausted": lambda: again.apply((9,)),
    "retries exhausted with error": lambda: again.apply((9, True)),
    "retry thrown": lambda: again.apply((1, True), throw=True),
    "autoretry": lambda: auto.apply(),
    "retry without throw": lambda: soft.apply(),
    "retry called directly": lambda: again(9, True),
    "ignore": lambda: leave.apply(("ignore",)),
    "reject": lambda: leave.apply(("reject",)),
    "exit": lambda: leave.apply(("exit",)),
    "interrupt": lambda: leave.apply(("interrupt",)),
    "nested": lambda: parent.apply(),
    "ignored": lambda: unwanted.apply(),
}  # fmt: skip
EAGER = {
    "success": lambda: add.delay(1, 2),
    "failure": lambda: div.delay(1, 0),
    "through the serializer": lambda: kind.delay((1, 2)),
    "retry": lambda: again.delay(1),
    "retries exhausted": lambda: again.delay(9, True),
    "options without meaning": lambda: add.apply_async((1, 2), countdown=10, expires=1, queue="q"),
    "callbacks": lambda: add.apply_async((1, 2), link=callback.s(), link_error=new.s()),
    "signature": lambda: add.s(1).delay(5),
    "ignored": lambda: unwanted.delay(),
}
PROPAGATING = {
    "failure": lambda: div.delay(1, 0),
    "failure applied": lambda: div.apply((1, 0)),
    "failure not thrown": lambda: div.apply((1, 0), throw=False),
    "retry": lambda: again.delay(1),
    "retry with error": lambda: again.delay(9, True),
    "autoretry": lambda: auto.delay(),
    "errback": lambda: div.apply_async((1, 0), link_error=new.s()),
    "ignore": lambda: leave.delay("ignore"),
    "reject": lambda: leave.delay("reject"),
}
STORED = {
    "success": lambda: add.delay(1, 2),
    "applied": lambda: add.apply((1, 2)),
    "failure": lambda: div.delay(1, 0),
    "retry": lambda: again.delay(1),
    "retries exhausted": lambda: again.delay(9, True),
    "ignored": lambda: unwanted.delay(),
    "ignore": lambda: leave.delay("ignore"),
    "reject": lambda: leave.delay("reject"),
}


def main() -> None:
    found = {f"applied: {name}": seen(act) for name, act in APPLIED.items()}
    app.conf.task_always_eager = True
    found |= {f"eager: {name}": seen(act) for name, act in EAGER.items()}
    app.conf.task_eager_propagates = True
    found |= {f"propagating: {name}": seen(act) for name, act in PROPAGATING.items()}
    app.conf.task_eager_propagates = False
    app.conf.task_store_eager_result = True
    for task in app.tasks.values():
        task.store_eager_result = True
    found |= {f"stored: {name}": stored(act) for name, act in STORED.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
