"""The real Celery at the other end of a pipe: run by the interpreter of Celery's own environment.

Each line of standard input is a JSON list ``[command, argument, ...]``, each line of output the answer.
Values cross as Python expressions, so that their exact types can be compared; envelopes as text.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import sys
import uuid
import zoneinfo

import celery
import celery.exceptions
import celery.schedules
import kombu.compression
import kombu.serialization
import kombu.utils.json
from celery.utils.saferepr import saferepr

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


NAMES.update(Odd=Odd, Picky=Picky, exceptions=celery.exceptions)


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


def compress(method, text):
    data, label = kombu.compression.compress(text, method)
    return [base64.b64encode(data).decode(), label]


def decompress(label, data):
    return kombu.compression.decompress(base64.b64decode(data), label).decode()


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
        write, read, write_json, read_json, write_error, read_error, repr_args, compress, decompress,
        parse_field, due,
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
