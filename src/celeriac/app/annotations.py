"""Annotations: attributes of tasks changed by the setting ``task_annotations``.

It is a dictionary of task name (or ``"*"``) to attributes, an object with methods ``annotate(task)`` or
``annotate_any()`` that return such attributes or ``None``, the dotted path of either, or a list of all these.
An attribute ``"@name"`` is a function that gets the method ``name`` and returns what takes its place. As in
Celery, the first entry of the list that knows a task counts, and what holds for ``"*"`` goes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app import names
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac
    from celeriac.task import Task


class MapAnnotation(dict[str, Any]):
    """A dictionary of task names as an object that annotates."""

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """The attributes for this task, ``None`` if there are none."""
        return self._of(task.name)

    def annotate_any(self) -> dict[str, Any] | None:
        """The attributes for all tasks."""
        return self._of("*")

    def _of(self, name: str) -> dict[str, Any] | None:
        found = self.get(name)
        return None if found is None else dict(found)


def prepare(annotations: Any) -> list[Any]:
    """The setting as a list of objects that annotate. Raises ``ImproperlyConfigured`` for what is none."""
    if annotations is None:
        return []
    given = annotations if isinstance(annotations, list | tuple) else (annotations,)
    return [_prepared(one) for one in given]


def resolve(annotations: Iterable[Any], task: type[Task[..., Any]]) -> Iterator[Mapping[str, Any]]:
    """What is to be set on a task's class, in this order."""
    prepared = list(annotations)
    for method, arguments in (("annotate", (task,)), ("annotate_any", ())):
        answers = (getattr(one, method)(*arguments) for one in prepared if hasattr(one, method))
        found = next((answer for answer in answers if answer is not None), None)
        if found:
            yield found


def annotate_all(app: Celeriac) -> None:
    """Annotate the tasks registered so far; each once."""
    if app.conf.task_annotations:
        for task in list(app.registry.values()):
            type(task).annotate()


def _prepared(annotation: Any) -> Any:
    if isinstance(annotation, str):
        annotation = names.given_or_default(annotation, None)
        if isinstance(annotation, type):
            annotation = annotation()
    if isinstance(annotation, Mapping):
        return MapAnnotation(annotation)
    if not hasattr(annotation, "annotate") and not hasattr(annotation, "annotate_any"):
        raise ImproperlyConfigured(
            f"setting task_annotations: {annotation!r} is neither a dictionary of task names nor an object "
            "with a method annotate(task)"
        )
    return annotation
