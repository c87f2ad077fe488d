"""Errors and control-flow exceptions, under Celery's names.

One flat tree: everything that Celeriac itself raises derives from :class:`CeleriacError` (alias
``CeleryError``), except the limits and signals that interrupt a task.
"""

from __future__ import annotations

from typing import Any


class CeleriacError(Exception):
    """Base of Celeriac's errors."""


CeleryError = CeleriacError


# -- raised inside a task to steer what becomes of it ---------------------------------------------


class TaskPredicate(CeleriacError):
    """Base of the exceptions by which a task tells the worker what to do with it."""


class Retry(TaskPredicate):
    """The task is to run again later; raised by ``Task.retry``.

    ``exc`` is the error that caused it, ``when`` the delay in seconds or a ``datetime``, and ``sig``
    the signature of the next attempt. In a worker ``publication`` is that attempt's message
    (``engines.base.Publication``), which is stored in the step that ends this one.
    """

    publication: Any = None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: Any = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        self.exc: BaseException | None = None if isinstance(exc, str) else exc
        self.excs: str | None = exc if exc is None or isinstance(exc, str) else repr(exc)
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(self, exc, when, **kwargs)

    def humanize(self) -> str:
        """Return the delay in words."""
        if isinstance(self.when, int | float):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.message, self.exc, self.when)


class Ignore(TaskPredicate):
    """The task ends without a result: its state stays what it is.

    ``publications`` are messages that take its place, to be stored in the step that ends it
    (``Task.replace``).
    """

    publications: Any = ()


class Reject(TaskPredicate):
    """The message is refused: put back in line with ``requeue=True``, else it becomes a dead letter."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


# -- how a task ended ------------------------------------------------------------------------------


class TaskError(CeleriacError):
    """Base of errors about a task."""


class MaxRetriesExceededError(TaskError):
    """``max_retries`` attempts failed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class TaskRevokedError(TaskError):
    """The task was revoked, expired or terminated before it ended."""


class InvalidTaskError(TaskError):
    """The message cannot be a task: headers or body do not have protocol 2's form."""


class ChordError(TaskError):
    """A task of a chord's header failed, so the body was not run."""


class NotRegistered(KeyError, TaskError):
    """No task of this name is known to the application."""

    def __repr__(self) -> str:
        return f"Task of kind {self} never registered, please make sure it's imported."


class AlreadyRegistered(TaskError):
    """A task of this name is registered already."""


class TimeoutError(TaskError):
    """A result did not arrive within the time the caller gave."""


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task when its soft time limit (seconds, in ``args``) has passed."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"


class TimeLimitExceeded(Exception):
    """The task was killed at its hard time limit (seconds, in ``args``)."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"


class WorkerLostError(Exception):
    """The process that ran the task died."""


class Terminated(Exception):
    """The task was killed because it was revoked with ``terminate=True``."""


class LeaseLost(Exception):
    """The worker's lease on the running task was taken over: what it writes will be refused."""


# -- mistakes in use and configuration -------------------------------------------------------------


class ImproperlyConfigured(CeleriacError):
    """A setting is unknown, of the wrong type or in conflict with another."""


class NotConfigured(CeleriacError):
    """The application has no configuration yet."""


class QueueNotFound(KeyError, CeleriacError):
    """A queue is not declared and ``task_create_missing_queues`` is off."""


class SecurityError(CeleriacError):
    """A message or key failed a security check."""


class EncodeError(CeleriacError):
    """An argument or a result cannot be serialised."""


class DecodeError(CeleriacError):
    """Stored or received bytes are not what their label says."""


class ContentDisallowed(SecurityError):
    """A message or result is in a format that ``accept_content`` does not allow."""


class IncompleteStream(TaskError):
    """The end of a stream was found before its data was complete."""


# -- the stores ------------------------------------------------------------------------------------


class OperationalError(CeleriacError):
    """A broker or result store cannot be reached or does not work now; it may later.

    ``maybe_done`` says that the request was sent and its answer did not come: it may have been carried out.
    """

    maybe_done: bool = False


class StoreFull(OperationalError):
    """The store has no room left (disk full, maxmemory reached)."""


class Fenced(CeleriacError):
    """The lease owner is no longer known to the store, or the scheduler's term is over: others took over."""


class SchemaError(CeleriacError):
    """The store's schema is newer than this version of Celeriac, or is not ours."""


class BackendError(CeleriacError):
    """A result store failed."""


class BackendGetMetaError(BackendError):
    """A result could not be read; the task's id is in ``task_id``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)


class BackendStoreError(BackendError):
    """A result could not be stored; the task's id and state are in ``task_id`` and ``state``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_id = kwargs.get("task_id", "")
        self.state = kwargs.get("state", "")
        super().__init__(*args)


class EntryNotFound(CeleriacError, KeyError):
    """There is no periodic task of this name."""


# -- the worker and the command line -----------------------------------------------------------------


class WorkerTerminate(SystemExit):
    """Stop the worker at once."""


class WorkerShutdown(SystemExit):
    """Stop the worker after what it runs."""


class CeleryCommandException(CeleriacError):
    """A command cannot do what it was asked; ``exit_code`` is the process's status."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# -- warnings ----------------------------------------------------------------------------------------


class CeleryWarning(UserWarning):
    """Base of Celeriac's warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """``send_task`` sends a message even though ``task_always_eager`` is on."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two tasks were given the same name; the later one is used."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two live workers use the same node name."""


class FixupWarning(CeleryWarning):
    """A framework integration could not be set up fully."""


class SecurityWarning(CeleryWarning):
    """A configuration that weakens security."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Something will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Something is deprecated."""
