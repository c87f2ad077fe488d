"""Steps: code of the application's own that lives with a worker.

::

    class Probe(bootsteps.StartStopStep):
        def start(self, worker):
            self.entry = worker.timer.call_repeatedly(1.0, Path("/tmp/alive").touch)

        def stop(self, worker):
            self.entry.cancel()

    app.steps["worker"].add(Probe)

A node runs its steps in its agent, the process that speaks for it, once a node and not once a child; in the
solo pool that is the worker's only process. They have a thread of their own there, so a slow step delays
nothing but other steps. If the agent is replaced (it died), its steps begin anew in the new one.
``celeriac.worker.steps`` says what a step is given as ``worker``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celeriac.exceptions import ImproperlyConfigured

__all__ = ["ConsumerStep", "StartStopStep", "Step"]


class Step:
    """A step that is only made: its constructor is called when the worker starts.

    It gets the worker, and the worker's options as keyword arguments, those of ``app.user_options["worker"]``
    among them.
    """

    name: str | None = None
    label: str | None = None
    conditional: bool = False
    requires: Iterable[Any] = ()
    """Steps (classes, or their names as ``"module:Class"``) that go before this one. Names of Celery's own
    parts are left out of account: all of Celeriac's stand by the time a step is made."""
    last: bool = False
    """Go after all others."""
    enabled: bool = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Does nothing; to be overridden."""

    def include_if(self, parent: Any) -> bool:
        """Whether the step takes part: by default, if it is ``enabled``."""
        return self.enabled

    def create(self, parent: Any) -> Any:
        """Make what the step stands for, with methods ``start`` and ``stop``; ``None`` if it is that
        itself."""

    def include(self, parent: Any) -> bool:
        """Take part, if :meth:`include_if` says so."""
        if not self.include_if(parent):
            return False
        self.create(parent)
        return True

    def __repr__(self) -> str:
        return f"<step: {self.name or type(self).__name__}>"


class StartStopStep(Step):
    """A step with a beginning and an end."""

    obj: Any = None
    """What :meth:`create` returned."""

    def include(self, parent: Any) -> bool:
        """Take part, if :meth:`include_if` says so, and keep what :meth:`create` returns."""
        if not self.include_if(parent):
            return False
        self.obj = self.create(parent)
        return True

    def start(self, parent: Any) -> Any:
        """Called at the worker's start: steps of ``"worker"`` at once, of ``"consumer"`` when it is ready."""
        return self.obj.start() if self.obj else None

    def close(self, parent: Any) -> Any:
        """Called when a shutdown begins; tasks are still running."""

    def stop(self, parent: Any) -> Any:
        """Called when all tasks have ended, in the reverse order of the starts."""
        return self.obj.stop() if self.obj else None

    def terminate(self, parent: Any) -> Any:
        """Called in place of :meth:`stop` at a cold shutdown."""
        if self.obj:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return self.stop(parent)


class ConsumerStep(StartStopStep):
    """In Celery, a step that consumes messages of its own. Here it may only override ``start`` and ``stop``.

    Celeriac's children take messages from the store themselves, and there is no connection on which a
    consumer of kombu's could listen: a worker whose steps define ``get_consumers`` does not start, and says
    so.
    """

    consumers: Any = None

    def get_consumers(self, channel: Any) -> Any:
        """Celery's hook; see the class."""
        raise ImproperlyConfigured(CONSUMERS.format(step=type(self).__name__))

    def start(self, parent: Any) -> Any:
        """Raises ``ImproperlyConfigured``, unless it is overridden."""
        raise ImproperlyConfigured(CONSUMERS.format(step=type(self).__name__))

    def shutdown(self, parent: Any) -> Any:
        """Called after :meth:`stop`."""


CONSUMERS = (
    "the step {step} consumes messages of its own (get_consumers), which Celeriac's workers cannot do: they "
    "have no kombu connection. Make a task of what it does and send it messages with send_task, or run a "
    "kombu consumer in a process of its own"
)
