"""Logging: Celery's formats and hooks, no password in a line, prints as lines."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import signals
from celeriac.app import log
from celeriac.app.state import Frame, running
from celeriac.settings import Settings
from celeriac.utils.log import LoggingProxy, get_logger, get_task_logger, mask_text, mlevel

NAMES = (None, "celeriac", "celeriac.task", "celeriac.redirected")


@pytest.fixture(autouse=True)
def clean_loggers() -> Iterator[None]:
    """Give every test bare loggers, and pytest its own back."""
    loggers = [logging.getLogger(name) for name in NAMES]
    kept = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    streams = sys.stdout, sys.stderr
    for logger in loggers:
        logger.handlers, logger.propagate = [], True
    yield
    logging.captureWarnings(False)
    sys.stdout, sys.stderr = streams
    for logger, handlers, level, propagate in kept:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def make(**settings: Any) -> log.Logging:
    logging.getLogger().handlers = []  # pytest puts its own there for each phase of a test
    conf = Settings()
    conf.update(settings)
    return log.Logging(SimpleNamespace(conf=conf))  # type: ignore[arg-type]


def test_lines_have_celerys_formats() -> None:
    stream = io.StringIO()
    make().setup("INFO", stream)
    get_logger("shop.web").info("hello %s", "you")
    get_task_logger("shop.tasks").info("paid")
    logging.getLogger("elsewhere").debug("not shown")
    when = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess\] "
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(when + "hello you", first)
    assert re.fullmatch(when + re.escape("???[???]: paid"), second)


def test_task_lines_name_the_running_task() -> None:
    stream = io.StringIO()
    make(worker_task_log_format="%(task_name)s %(task_id)s %(message)s").setup("INFO", stream)
    request = SimpleNamespace(id="abc", called_directly=False)
    token = running.set(Frame(SimpleNamespace(name="shop.pay"), request, None))  # type: ignore[arg-type]
    try:
        get_task_logger("shop.more").info("now")
    finally:
        running.reset(token)
    assert stream.getvalue() == "shop.pay abc now\n"


def test_passwords_in_urls_are_masked_also_in_tracebacks() -> None:
    stream = io.StringIO()
    make(worker_log_format="%(message)s").setup("INFO", stream)
    try:
        raise OSError("no answer from redis://user:secret@host:6379/0")
    except OSError:
        logging.getLogger("x").exception("lost 'redis://:secret@host/0', see http://docs.example/a:b")
    text = stream.getvalue()
    assert "secret" not in text
    assert "redis://:**@host/0" in text
    assert "http://docs.example/a:b" in text


def test_text_without_a_password_stays_as_it_is() -> None:
    for text in ("a://b", "mail me@example.org", "http://localhost:80/x", "10:30 // @home"):
        assert mask_text(text) == text


def test_levels_are_coloured_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    make(worker_log_format="%(levelname)s %(message)s").setup("INFO", stream, colorize=True)
    logging.getLogger("x").error("broken")
    logging.getLogger("x").info("calm")
    assert stream.getvalue() == "ERROR \033[31mbroken\033[0m\nINFO calm\n"
    monkeypatch.setattr(sys, "__stderr__", SimpleNamespace(isatty=lambda: True))
    assert make().supports_color()
    assert not make().supports_color(logfile="x.log")
    assert not make(worker_log_color=False).supports_color()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not make().supports_color()


def test_a_receiver_of_setup_logging_replaces_all_of_it() -> None:
    seen: list[dict[str, Any]] = []

    def receiver(**kwargs: Any) -> None:
        seen.append(kwargs)

    signals.setup_logging.connect(receiver)
    try:
        make().setup("INFO", hostname="w@h")
    finally:
        signals.setup_logging.disconnect(receiver)
    assert seen[0]["loglevel"] == logging.INFO
    assert {"logfile", "format", "colorize"} <= set(seen[0])
    assert not logging.getLogger().handlers


def test_receivers_may_add_to_the_loggers() -> None:
    seen: list[str] = []

    def receiver(signal: Any, logger: logging.Logger, **kwargs: Any) -> None:
        seen.append(logger.name)
        assert logger.handlers

    signals.after_setup_logger.connect(receiver)
    signals.after_setup_task_logger.connect(receiver)
    try:
        make().setup("INFO", io.StringIO())
    finally:
        signals.after_setup_logger.disconnect(receiver)
        signals.after_setup_task_logger.disconnect(receiver)
    assert seen == ["root", "celeriac.task"]


@pytest.mark.parametrize("hijack", [True, False])
def test_the_users_handlers_stay_if_the_root_logger_is_not_hijacked(hijack: bool) -> None:
    mine = logging.StreamHandler(io.StringIO())
    logging_ = make(worker_hijack_root_logger=hijack)
    logging.getLogger().addHandler(mine)
    logging_.setup("INFO", io.StringIO())
    assert (mine in logging.getLogger().handlers) is not hijack
    assert len(logging.getLogger().handlers) == 1


def test_set_up_happens_once() -> None:
    logging_ = make()
    assert logging_.setup("INFO", io.StringIO())
    assert not logging_.setup("DEBUG", io.StringIO())
    assert logging.getLogger().level == logging.INFO


def test_a_child_writes_to_its_own_file_under_its_own_name(tmp_path: Path) -> None:
    from multiprocessing import process

    logging_ = make(
        worker_log_format="%(processName)s %(message)s", worker_task_log_format="task %(message)s"
    )
    logging_.setup("INFO", str(tmp_path / "%n%I.log"), hostname="w1@h")
    logging.getLogger("x").info("main")
    name = process.current_process().name
    try:
        logging_.enter_child(2, "ForkPoolWorker-2")
        logging.getLogger("x").info("child")
        get_task_logger("y").info("tells")
    finally:
        process.current_process().name = name
    assert (tmp_path / "w1.log").read_text() == "MainProcess main\n"
    assert (tmp_path / "w1-2.log").read_text() == "ForkPoolWorker-2 child\ntask tells\n"


def test_prints_become_lines() -> None:
    stream = io.StringIO()
    logging_ = make(worker_log_format="%(levelname)s %(message)s", worker_redirect_stdouts_level="INFO")
    logging_.setup("INFO", stream)
    logging_.redirect_stdouts()
    print("one\n\ntwo", 3)
    print("to stderr", file=sys.stderr)
    print("unfinished", end="")
    assert stream.getvalue() == "INFO one\nINFO two 3\nINFO to stderr\n"
    print(" line", end="", flush=True)
    assert stream.getvalue().endswith("INFO unfinished line\n")
    assert not sys.stdout.isatty()


def test_a_failing_handler_does_not_log_its_own_failure_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sys.stderr.write("handler is broken")

    logger = logging.getLogger("celeriac.redirected")
    logger.addHandler(Broken())
    sys.stderr = LoggingProxy(logger, "ERROR")
    sys.stderr.write("x")  # would never return


def test_loggers_of_tasks_hang_below_the_task_logger() -> None:
    assert get_task_logger("a.b").parent is logging.getLogger("celeriac.task")
    assert get_logger("a.c").parent is logging.getLogger("celeriac")
    assert get_logger("celeriac.worker.x").parent is not logging.getLogger()
    with pytest.raises(RuntimeError, match="reserved"):
        get_task_logger("celeriac.task")


def test_level_names() -> None:
    assert mlevel("info") == mlevel(20) == 20
    assert mlevel("fatal") == 50
    assert mlevel(None) == 0
    with pytest.raises(ValueError, match="DEBUG"):
        mlevel("loud")
