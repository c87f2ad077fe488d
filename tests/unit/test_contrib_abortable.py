"""Abortable tasks, with a worker and without."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.contrib.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from celeriac.contrib.testing import drain
from celeriac.contrib.testing.worker import start_worker
from celeriac.exceptions import ImproperlyConfigured


@pytest.fixture
def app() -> Iterator[Celeriac]:
    with Celeriac("abort", broker=f"memory://{uuid.uuid4().hex}", set_as_current=False) as app:
        yield app


def test_a_running_task_sees_that_it_was_aborted(app: Celeriac) -> None:
    looked, aborted = threading.Event(), threading.Event()

    @app.task(bind=True, base=AbortableTask)
    def crunch(self: Any) -> list[bool]:
        before = self.is_aborted()
        looked.set()
        assert aborted.wait(10)
        return [before, self.is_aborted()]

    with start_worker(app):
        result = crunch.delay()
        assert isinstance(result, AbortableAsyncResult)
        assert looked.wait(10)
        assert not result.is_aborted()
        assert result.abort()
        assert (result.is_aborted(), result.state) == (True, ABORTED)
        aborted.set()
        assert result.get(timeout=10) == [False, True]
        assert not result.is_aborted(), "it has ended since"
        assert not result.abort(), "it cannot be stopped any more"
        assert result.state == "SUCCESS"


def test_a_handle_by_id_aborts(app: Celeriac) -> None:
    @app.task(bind=True, base=AbortableTask)
    def crunch(self: Any) -> bool:
        return bool(self.is_aborted())

    result = crunch.apply_async(task_id="given")
    assert AbortableAsyncResult("given", app=app).abort()
    assert crunch.is_aborted(task_id="given")
    assert not crunch.is_aborted(task_id="other")
    drain(app)
    assert result.get(timeout=1) is True


def test_called_directly_or_eagerly_it_is_not_aborted(app: Celeriac) -> None:
    @app.task(bind=True, base=AbortableTask)
    def crunch(self: Any) -> bool:
        return bool(self.is_aborted())

    assert crunch() is False
    assert crunch.apply().get() is False
    app.conf.task_always_eager = True
    assert crunch.delay().get() is False


def test_without_results_there_is_no_aborting() -> None:
    app = Celeriac("none", broker=f"memory://{uuid.uuid4().hex}", backend="disabled://")
    with app, pytest.raises(ImproperlyConfigured, match="results are turned off"):
        AbortableAsyncResult("x", app=app).abort()
