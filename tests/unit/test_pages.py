"""The examples of docs/ run as they stand there. ``test_page_blocks.py`` says which have tests elsewhere."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from celeriac import Celeriac
from celeriac.app.definition import Definition
from celeriac.beat import Beat
from celeriac.cli import root
from celeriac.contrib.conformance.helpers import eventually
from celeriac.contrib.testing.worker import start_worker
from celeriac.message import decode_envelope
from celeriac.worker.control import Panel, inspect_command
from tests import certificates
from tests.servers import RedisServer

DOCS = Path(__file__).parents[2] / "docs"


class Page:
    """The examples of a page, run statement by statement with ``names`` around them."""

    def __init__(self, name: str, **names: Any) -> None:
        self.blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
        self.names: dict[str, Any] = {"__name__": "page", **names}
        self.results: list[Any] = []
        """The values of statements that are expressions."""

    def run(self, block: int) -> None:
        for statement in ast.parse(self.blocks[block]).body:
            self.statement(statement)

    def statement(self, statement: ast.stmt) -> None:
        expression = isinstance(statement, ast.Expr)
        tree: Any = ast.Expression(statement.value) if expression else ast.Module([statement], [])  # type: ignore[attr-defined]
        mode = "eval" if expression else "exec"
        code = compile(tree, "page", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        value = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:

            async def run() -> Any:
                return await value

            value = asyncio.run(run())
        if expression:
            self.results.append(value)


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with Celeriac("page", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False) as app:
        yield app


def test_what_a_task_can_ask_for(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page("tasks.md", app=app)
    assert len(page.blocks) == 5
    for block in range(4):
        page.run(block)
    export, reindex, render, transcode = (
        page.names[name] for name in ("export", "reindex", "render", "transcode")
    )
    exported = page.names["first"]
    assert export.apply_async((7, "x"), unique_for=60).duplicate
    assert reindex.delay(1, "old").id == reindex.delay(1, "new").id
    rendered = [render.delay("acme", number) for number in range(5)]
    transcoded = transcode.delay(200)
    with start_worker(app, pool="threads", concurrency=4):
        for result in (exported, *rendered, transcoded):
            result.get(timeout=10)
        eventually(lambda: not export.delay(7, "x").duplicate)
        page.run(4)
    # It copies nothing, so its last updates may be over before anybody looks: which ones are seen is chance.
    shown = [f"{10 * done}% file {done}" for done in range(1, 11)]
    assert set(capsys.readouterr().out.splitlines()) <= set(shown)
    sent = export.enqueue_many([(1, "x"), (2, "x"), ((1,), {"day": "y"})])
    assert [result.duplicate for result in sent] == [False, False, True]


def test_canvas(app: Celeriac) -> None:
    @app.task
    def fetch(url: str) -> str:
        return f"<{url}>"

    @app.task
    def parse(text: str) -> str:
        return text.strip("<>")

    @app.task
    def store(text: str) -> str:
        return f"stored {text}"

    @app.task
    def merge(texts: list[str]) -> str:
        return "".join(texts)

    urls = [f"u{number}" for number in range(150)]
    page = Page("canvas.md", url="u", urls=urls, fetch=fetch, parse=parse, store=store, merge=merge)
    assert len(page.blocks) == 1
    every = [f"<{url}>" for url in urls]
    with start_worker(app, pool="threads", concurrency=2):
        page.run(0)
        chained, group, chord, upgraded, chunks = (result.get(timeout=20) for result in page.results)
    assert chained == "stored u"
    assert group == every
    assert chord == upgraded == "".join(every)
    assert chunks == [every[:100], every[100:]]


def test_results(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
    go_on, fractions = threading.Event(), []

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    class Bar:
        update = fractions.append

    def store(row: int) -> None:
        if row:
            assert go_on.wait(20)

    page = Page("results.md", app=app, add=add, rows=[0, 1, 2], store=store, bar=Bar)
    assert len(page.blocks) == 3
    page.blocks[1] = page.blocks[1].replace("range(10_000)", "range(50)")
    with start_worker(app, pool="threads", concurrency=2):
        page.run(0)
        assert page.results[:2] == [5, 5]
        assert page.results[2] == ("SUCCESS", True, True)
        page.results.clear()
        page.run(1)
        assert page.results[0] == page.results[1] == [2 * number for number in range(50)]
        assert page.results[2] == (50, False)
        for statement in ast.parse(page.blocks[2]).body:
            page.statement(statement)
            if isinstance(statement, ast.Assign):
                eventually(lambda: page.names["result"].progress)
            if "fraction" in ast.unparse(statement):
                go_on.set()
    assert fractions[-1] == 1
    assert page.names["result"].get(timeout=10) is None


def test_beat(app: Celeriac, capsys: pytest.CaptureFixture[str]) -> None:
    app.conf.result_expires = None

    @app.task(name="proj.tasks.health")
    def health() -> None:
        pass

    @app.task(name="proj.tasks.report")
    def report(kind: str) -> None:
        pass

    @app.task(name="proj.tasks.cleanup")
    def cleanup() -> None:
        pass

    page = Page("beat.md", app=app)
    assert len(page.blocks) == 2
    page.run(0)
    beat = Beat(app)
    beat.attempt()
    assert [entry.name for entry in app.schedule.list()] == ["health", "report"]
    page.run(1)
    assert capsys.readouterr().out.count("None") == 6, "three entries, nothing has run"
    assert [entry.name for entry in app.schedule.list()] == ["health", "report"]
    text = (DOCS / "beat.md").read_text()
    for line in re.findall(r"^celeriac -A proj (schedule .*)$", text, re.MULTILINE):
        *before, last = shlex.split(line)
        commands = [part for part in before if part != "|"][1:] if "|" in before else None
        for one in commands or [None]:
            arguments = ["schedule", one, last] if one else [*before, last]
            more = ["--yes"] if one == "remove" else []
            assert root.run([*arguments, *more], app) == 0, arguments
            beat.attempt()
    assert [entry.name for entry in app.schedule.list()] == ["health", "report"]


def test_the_entrys_keys_in_the_page_of_beat_are_those_there_are() -> None:
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*) \|", (DOCS / "beat.md").read_text(), re.MULTILINE)
    fields = {field.name: field for field in msgspec.structs.fields(Definition)}
    named = {name.strip(" `"): default for names, default in table for name in names.split(",")}
    known = {"name", "task", "schedule", "args", "kwargs", "options", "changed", "catch_up"}
    assert named.keys() == fields.keys() - known
    for name, default in named.items():
        said = default.strip(" `").replace("none", "None").strip('"')
        assert said == str(fields[name].default).removesuffix(".0"), name


# -- extending.md ------------------------------------------------------------------------------------------


@pytest.fixture
def own_commands() -> Iterator[None]:
    """Commands of remote control that are made here are nobody else's."""
    data, meta = dict(Panel.data), dict(Panel.meta)
    yield
    for kept, now in ((data, Panel.data), (meta, Panel.meta)):
        now.clear()
        now.update(kept)


@pytest.mark.usefixtures("own_commands")
def test_steps_commands_and_options_of_one_s_own(app: Celeriac, tmp_path: Path) -> None:
    def there(path: str) -> Path:
        return tmp_path / Path(path).name

    page = Page("extending.md", app=app, Path=there, shutil=shutil, click=click)
    assert len(page.blocks) == 3
    for block in range(3):
        page.run(block)
    (tmp_path / "prices").touch()
    with start_worker(app):
        eventually((tmp_path / "alive").exists)
        (free,) = app.control.inspect().ask("disk_free", path=str(tmp_path)).values()
        assert free > 0
        (answer,) = app.control.broadcast("forget_prices", reply=True, timeout=10) or []
        assert list(answer.values()) == [{"ok": "forgotten"}]
        assert not (tmp_path / "prices").exists()
    (shard,) = app.user_options["worker"]
    (zone,) = app.user_options["preload"]
    assert (shard.opts, zone.opts) == (["--shard"], ["-Z", "--zone"])


# -- monitoring.md -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_commands")
def test_orders_events_and_history(redis_server: RedisServer) -> None:
    said: list[str] = []

    def say(*words: object) -> None:
        said.append(" ".join(map(str, words)))
        if "failed on" in said[-1]:
            sys.exit()  # the monitor goes on for ever otherwise

    @inspect_command(name="my_command")
    def my_command(state: Any, n: int) -> int:
        return n + 1

    with Celeriac("shop", broker=redis_server.url(), set_as_current=False) as app:
        app.conf.worker_send_task_events = True

        @app.task(name="shop.charge")
        def charge(card: str) -> None:
            raise ValueError("no money on the card")

        page = Page("monitoring.md", app=app, print=say)
        assert len(page.blocks) == 4
        page.run(1)
        page.run(2)
        with start_worker(app, pool="threads", hostname="celery@one"):
            page.run(0)
            assert page.results[0] == [{"celery@one": {"ok": "pong"}}]
            assert page.results[-1] == [{"celery@one": 4}]

            def watch() -> None:
                with suppress(SystemExit):
                    page.names["monitor"](app)

            monitor = threading.Thread(target=watch, daemon=True)
            monitor.start()
            sent = []
            eventually(lambda: sent.append(charge.delay("4")) or not monitor.is_alive(), 20)
            assert "failed on celery@one: ValueError('no money on the card')" in said[-1]
            assert page.names["resize"].delay("x").get(timeout=10) is None
            page.blocks[3] = page.blocks[3].replace("    ...", "    break")
            more = threading.Timer(0.3, charge.delay, ("4",))
            more.start()
            page.run(3)
            more.join()
    assert "no money on the card" in said[-1]
    assert page.names["attempt"].task == "shop.charge"


# -- security.md -------------------------------------------------------------------------------------------


def test_signatures_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_SECRET", "x" * 32)
    files = certificates.make(tmp_path, "web")
    page = Page("security.md", os=os)
    assert len(page.blocks) == 3
    for name, value in (("key", "web.key"), ("certificate", "web.pem"), ("cert_store", "trusted/*.pem")):
        path = files[f"security_{name}"] + ("/*.pem" if "*" in value else "")
        assert f"/etc/shop/{value}" in page.blocks[1]
        page.blocks[1] = page.blocks[1].replace(f"/etc/shop/{value}", path)
    for block in range(2):
        with Celeriac("page", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False) as app:
            page.names["app"] = app
            page.run(block)
            page.run(2)
            pay = page.names["pay"]
            result = pay.delay("DE00 1234", 5)
            (payload,) = app.broker.peek("celery")
            message = decode_envelope(payload)
            assert message.headers["argsrepr"] == "('***', 5)"
            assert not message.body.startswith(b"["), "it is signed"
            with start_worker(app):
                assert result.get(timeout=10) is None


# -- canvas.md: what a mistake looks like -------------------------------------------------------------------


def test_a_step_too_many_is_named_as_the_page_says(app: Celeriac) -> None:
    def send_email(to, subject, text):  # type: ignore[no-untyped-def]
        pass

    fetch, process = (app.task(lambda text: text, name=f"tasks.{name}") for name in ("fetch", "process"))
    send = app.task(send_email, name="tasks.send_email")
    pipeline: Any = fetch.s("u") | process.s() | send.s("me", "done", "see")
    with pytest.raises(TypeError) as raised:
        pipeline.delay()
    (said,) = re.findall(r"```\nTypeError: (.*?)```", (DOCS / "canvas.md").read_text(), re.DOTALL)
    assert str(raised.value) == " ".join(said.split())
