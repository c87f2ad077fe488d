"""The tasks of Celery's canvas documentation, for a worker (``app``) and for any other application."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

from celeriac import Celeriac


def tasks_of(app: Celeriac) -> SimpleNamespace:
    """Give ``app`` the tasks."""

    def note(text):
        with open(os.environ["TEST_JOURNAL"], "ab", buffering=0) as journal:
            journal.write(text.encode() + b"\n")

    @app.task(name="add")
    def add(x, y, debug=False):
        return x + y

    @app.task(name="mul")
    def mul(x, y):
        return x * y

    @app.task(name="tsum")
    def tsum(numbers):
        return sum(numbers)

    @app.task(name="xsum")
    def xsum(numbers):
        return sum(numbers)

    @app.task(name="identity")
    def identity(value):
        return value

    @app.task(name="raising_task")
    def raising_task():
        raise ValueError("something something")

    @app.task(name="reset_buffers")
    def reset_buffers():
        note("reset")

    @app.task(name="log_result")
    def log_result(result):
        note(f"result {result!r}")

    @app.task(name="log_error")
    def log_error(request, exc, traceback):
        note(f"error {request.id} {type(exc).__name__}: {exc}")

    @app.task(name="log_error_id")
    def log_error_id(task_id):
        note(f"errid {task_id}")

    @app.task(name="import_contact")
    def import_contact(contact):
        note(f"contact {contact}")

    @app.task(name="notify_complete")
    def notify_complete(import_id):
        note(f"complete {import_id}")
        return import_id

    @app.task(name="create_user")
    def create_user(username, first, last, email):
        return {"username": username, "name": f"{first} {last}", "email": email}

    @app.task(name="import_contacts")
    def import_contacts(user):
        return f"contacts of {user['username']}"

    @app.task(name="send_welcome_email")
    def send_welcome_email(user):
        return f"welcome {user['email']}"

    @app.task(name="stamps", bind=True)
    def stamps(self, *_):
        return {"stamps": self.request.stamps, "stamped_headers": self.request.stamped_headers}

    @app.task(name="replaced", bind=True)
    def replaced(self, x):
        raise self.replace(mul.s(x, 10))

    @app.task(name="replaced_by_group", bind=True)
    def replaced_by_group(self, count):
        from celeriac import group

        raise self.replace(group(add.s(i, i) for i in range(count)))

    @app.task(name="replaced_by_chord", bind=True)
    def replaced_by_chord(self, count):
        from celeriac import chord

        raise self.replace(chord((add.s(i, i) for i in range(count)), tsum.s()))

    @app.task(name="grows", bind=True)
    def grows(self, x):
        self.add_to_chord(add.si(x, 100))
        return x

    @app.task(name="nap")
    def nap(seconds):
        time.sleep(seconds)
        return seconds

    return SimpleNamespace(
        **{name: task for name, task in locals().items() if name not in ("app", "note")}, app=app
    )


app = Celeriac(
    "canvas",
    broker=os.environ.get("TEST_BROKER"),
    backend=os.environ.get("TEST_BACKEND"),
    set_as_current=False,
)
tasks_of(app)
