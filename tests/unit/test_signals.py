"""Signals: who is called, what is held, what a receiver's error does."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from celeriac import signals
from celeriac.signals import Signal


def test_a_signal_without_receivers_is_falsy_for_hot_paths() -> None:
    signal = Signal("x")
    assert not signal.receivers

    @signal.connect
    def receiver(**_: Any) -> None: ...

    assert signal.receivers
    assert signal.disconnect(receiver)
    assert not signal.receivers


def test_receivers_get_sender_and_arguments_and_their_answers_come_back() -> None:
    signal = Signal("x")
    seen = []

    @signal.connect
    def receiver(sender: Any, **kwargs: Any) -> str:
        seen.append((sender, kwargs["a"], kwargs["signal"]))
        return "answer"

    assert signal.send("me", a=1) == [(receiver, "answer")]
    assert seen == [("me", 1, signal)]


def test_a_receiver_of_one_sender_is_not_called_for_others() -> None:
    signal = Signal("x")
    seen: list[Any] = []

    @signal.connect(sender="tasks.add")
    def receiver(sender: Any, **_: Any) -> None:
        seen.append(sender)

    class Task:
        name = "tasks.add"

    task = Task()
    signal.send("tasks.mul")
    signal.send("tasks.add")
    signal.send(task)
    assert seen == ["tasks.add", task]


def test_receivers_are_held_weakly_unless_told() -> None:
    signal = Signal("x")
    calls = []

    def connect() -> None:
        def weak(**_: Any) -> None:
            calls.append("weak")

        def strong(**_: Any) -> None:
            calls.append("strong")

        signal.connect(weak)
        signal.connect(strong, weak=False)

    connect()
    gc.collect()
    signal.send()
    assert calls == ["strong"]
    assert len(signal.receivers) == 1


def test_methods_can_be_receivers_and_die_with_their_object() -> None:
    signal = Signal("x")

    class Listener:
        calls = 0

        def hear(self, **_: Any) -> None:
            Listener.calls += 1

    listener = Listener()
    signal.connect(listener.hear)
    signal.send()
    del listener
    gc.collect()
    signal.send()
    assert Listener.calls == 1


def test_a_dispatch_uid_connects_once() -> None:
    signal = Signal("x")
    calls = []
    for _ in range(2):
        signal.connect(lambda **_: calls.append(1), weak=False, dispatch_uid="once")
    signal.send()
    assert calls == [1]
    assert signal.disconnect(dispatch_uid="once")


def test_an_error_of_a_receiver_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    signal = Signal("x")
    calls = []

    @signal.connect
    def bad(**_: Any) -> None:
        raise ValueError("boom")

    @signal.connect
    def good(**_: Any) -> None:
        calls.append(1)

    with caplog.at_level(logging.ERROR):
        answers = signal.send()
    assert calls == [1]
    assert isinstance(answers[0][1], ValueError)
    assert "boom" in caplog.text


def test_a_receiver_with_retry_is_called_again() -> None:
    signal = Signal("x")
    attempts = []

    @signal.connect(retry=True)
    def flaky(**_: Any) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError
        return "done"

    assert signal.send() == [(flaky, "done")]


NAMES = [
    "before_task_publish",
    "after_task_publish",
    "task_received",
    "task_prerun",
    "task_postrun",
    "task_success",
    "task_retry",
    "task_failure",
    "task_internal_error",
    "task_revoked",
    "task_rejected",
    "task_unknown",
    "task_sent",
    "celeryd_init",
    "celeryd_after_setup",
    "import_modules",
    "worker_init",
    "worker_before_create_process",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
    "heartbeat_sent",
    "setup_logging",
    "after_setup_logger",
    "after_setup_task_logger",
    "beat_init",
    "beat_embedded_init",
    "eventlet_pool_started",
    "eventlet_pool_preshutdown",
    "eventlet_pool_postshutdown",
    "eventlet_pool_apply",
    "user_preload_options",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_of_celery_is_there(name: str) -> None:
    assert isinstance(getattr(signals, name), Signal)
