"""The real Celery at the other end of a pipe: run by the interpreter of Celery's own environment.

Each line of standard input is a JSON list ``[command, argument, ...]``, each line of output the answer.
Values cross as Python expressions, so that their exact types can be compared; envelopes as text.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import functools
import json
import re
import sys
import uuid
import zoneinfo

import celery
import celery.app.task
import celery.exceptions
import celery.result
import celery.schedules
import celery.utils.graph
import kombu.compression
import kombu.serialization
import kombu.transport.memory
import kombu.utils.json
from celery import canvas
from celery.utils.saferepr import saferepr

import shared_routers

NAMES = {
    "datetime": datetime,
    "decimal": decimal,
    "uuid": uuid,
    "UUID": uuid.UUID,
    "Decimal": decimal.Decimal,
}
kombu.serialization.enable_insecure_serializers()
app = celery.Celery("peer", broker="memory://", backend="cache+memory://")
old_app = celery.Celery("old", broker="memory://", backend="cache+memory://")
old_app.conf.task_protocol = 1


class Odd:
    def __repr__(self):
        return "<Odd>"


class Picky(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")


ROUTING = {"Queue": kombu.Queue, "Exchange": kombu.Exchange, "re": re, "routers": shared_routers}
NAMES.update(Odd=Odd, Picky=Picky, exceptions=celery.exceptions)
CANVAS = {
    name: getattr(canvas, name)
    for name in ("chain", "group", "chord", "chunks", "xmap", "xstarmap", "signature", "Signature")
}


@app.task(name="t.add")
def add(x, y):
    return x + y


@app.task(name="t.total")
def total(values):
    return sum(values)


@app.task(name="t.listed")
def listed(*values, **more):
    return [*values, *([more] if more else [])]


@app.task(name="t.old")
def old(task_id):
    pass


class Visitor(canvas.StampingVisitor):
    """Stamps each part with the hooks that came to it."""

    def on_signature(self, sig, **headers):
        return {"on_signature": sig.task}

    def on_group_start(self, sig, **headers):
        return {"on_group_start": len(sig.tasks)}

    def on_chain_start(self, sig, **headers):
        return {"on_chain_start": len(sig.tasks)}

    def on_chord_header_start(self, sig, **header):
        return {"on_chord_header_start": 1}

    def on_chord_body(self, sig, **header):
        return {"on_chord_body": 1}

    def on_callback(self, callback, **header):
        return {"on_callback": callback.task}

    def on_errback(self, errback, **header):
        return {"on_errback": errback.task}


CANVAS.update(add=add, total=total, listed=listed, old=old, Visitor=Visitor)


def write(options):
    """Publish with Celery; return the element that its Redis transport would push."""
    options = eval(options, NAMES)
    sender = old_app if options.pop("protocol", 2) == 1 else app
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        sender.send_task("peer.task", connection=connection, **options)
        return kombu.utils.json.dumps(channel._queue_for("celery").get_nowait())


def read(envelope):
    """Take an element of a Redis list as Celery's worker does."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.Message(kombu.utils.json.loads(envelope), channel=channel)
        message.accept = None
        return repr({"body": message.decode(), "headers": message.headers, "properties": message.properties})


def write_json(value):
    return kombu.utils.json.dumps(eval(value, NAMES))


def read_json(text):
    return repr(kombu.utils.json.loads(text))


def write_error(error):
    return kombu.utils.json.dumps(app.backend.prepare_exception(eval(error, NAMES), "json"))


def read_error(text):
    error = app.backend.exception_to_python(kombu.utils.json.loads(text))
    return [type(error).__module__, type(error).__qualname__, repr(error.args)]


def repr_args(value, limit):
    return saferepr(eval(value, NAMES), limit)


def evaluate(expression):
    """The value of an expression about results, which names what Celery's modules define."""
    modules = (celery.result, celery.utils.graph)
    names = {name: getattr(module, name) for module in modules for name in module.__all__}
    return repr(eval(expression, NAMES | names | {"app": app}))


def save_group(group, parent, ids):
    """What Celery stores for a group."""
    result = app.GroupResult(group, [app.AsyncResult(each) for each in ids], app.AsyncResult(parent))
    return app.backend.encode({"result": result.as_tuple()})


def restore_group(stored):
    """What Celery makes of a stored group."""
    result = celery.result.result_from_tuple(app.backend.decode(stored)["result"], app)
    return [type(result).__name__, result.id, str(result.parent), [str(each) for each in result]]


def make(source):
    """Run the lines; return the signature that they leave in ``c``, as JSON, and its text."""
    names = dict(CANVAS)
    exec(source, names)
    return [kombu.utils.json.dumps(names["c"]), repr(names["c"])]


def send(source):
    """The same, and send it; return headers and body of the messages, and the ids of result and parents."""
    names = dict(CANVAS)
    exec(source, names)
    with app.connection_for_write() as connection:
        result = names["c"].apply_async()
        sent = [[each["headers"], json.loads(base64.b64decode(each["body"]))] for each in waiting(connection)]
    return [sent, ids_of(result)]


def waiting(connection):
    """Take all messages from the queue."""
    queue = connection.default_channel._queue_for("celery")
    while not queue.empty():
        yield queue.get_nowait()


def ids_of(result):
    """The id of a result, of its members, and so of all its parents."""
    if result is None:
        return None
    members = [ids_of(member) for member in getattr(result, "results", None) or ()]
    return [result.id, members, ids_of(result.parent)]


def run(source):
    """The same, but run it here; return state and value."""
    names = dict(CANVAS)
    exec(source, names)
    value = json.loads(json.dumps(names["c"].apply().get()))
    with app.connection_for_write() as connection:
        list(waiting(connection))  # callbacks
    return value


def read_signature(text):
    """Make a signature of its JSON, and write it again."""
    return kombu.utils.json.dumps(canvas.maybe_signature(kombu.utils.json.loads(text), app))


def compress(method, text):
    data, label = kombu.compression.compress(text, method)
    return [base64.b64encode(data).decode(), label]


def decompress(label, data):
    return kombu.compression.decompress(base64.b64decode(data), label).decode()


def nothing(*args, **kwargs):
    """A task."""


def route(scenario):
    """Send a call with these settings, task attributes and options; return who got it, at what priority."""
    given = eval(scenario, ROUTING)
    sender = celery.Celery(
        "routes", broker="memory://", backend="cache+memory://", set_as_current=False, **given["settings"]
    )
    task = sender.task(nothing, name=given["name"], **given["task"])
    kombu.transport.memory.Transport.global_state.clear()
    kombu.transport.memory.Channel.queues.clear()
    with sender.connection_for_write() as connection:
        channel = connection.default_channel
        for queue in list(sender.amqp.queues.values()):
            queue(channel).declare()
        try:
            task.apply_async(given["args"], given["kwargs"], connection=connection, **given["call"])
        except Exception as error:
            return type(error).__name__
        got = {}
        for name, messages in kombu.transport.memory.Channel.queues.items():
            for message in list(messages.queue):
                got[name] = message["properties"]["priority"]
        return got


@functools.cache
def redis_app(url):
    return celery.Celery("chords", broker=url, backend=url)


def chord_size(url, group, size):
    redis_app(url).backend.set_chord_size(group, size)


def chord_joined(url, group):
    redis_app(url).backend.add_to_chord(group, None)


def chord_part(url, group, task_id, index, value):
    """End a header task as Celery's worker does; its body is a call of ``peer.body``."""
    app = redis_app(url)
    body = app.signature("peer.body")
    request = celery.app.task.Context(id=task_id, group=group, group_index=index, chord=body)
    app.backend.on_chord_part_return(request, "SUCCESS", value)


def parse_field(text, count, least):
    try:
        return sorted(celery.schedules.crontab_parser(count, least).parse(text))
    except (ValueError, celery.schedules.ParseException) as error:
        return type(error).__name__


def due(cases):
    return [schedule_state(*case) for case in cases]


def schedule_state(source, zone, last_run, now, deadline=None):
    """At ``now`` after a last run: the seconds left, whether it is due, the seconds until the next."""
    app.conf.beat_cron_starting_deadline = deadline
    made = eval(source, vars(celery.schedules) | NAMES | {"timedelta": datetime.timedelta})
    made.app = app
    made.tz = zoneinfo.ZoneInfo(zone)
    made.nowfun = lambda: datetime.datetime.fromisoformat(now)
    last_run = datetime.datetime.fromisoformat(last_run)
    state = made.is_due(last_run)
    return [made.remaining_estimate(last_run).total_seconds(), state.is_due, state.next]


def main():
    commands = (
        write, read, write_json, read_json, route, write_error, read_error, repr_args, evaluate, save_group,
        restore_group, make, send, run, read_signature, compress, decompress, chord_size, chord_joined,
        chord_part, parse_field, due,
    )  # fmt: skip
    by_name = {command.__name__: command for command in commands}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"answer": by_name[name](*arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
