"""A running task that hands its place on (``Task.replace``) or brings others into its chord."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from celeriac.canvas.chain import chain
from celeriac.canvas.chord import chord
from celeriac.canvas.signature import Signature, listed, maybe_signature
from celeriac.canvas.stamping import NAMES
from celeriac.canvas.steps import freeze_steps, prepared, synchronised
from celeriac.exceptions import Ignore, ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.request import Context
    from celeriac.task import Task


def replacement(task: Task[..., Any], sig: Any) -> Any:
    """``sig``, made what takes the place of the running call: its id, callbacks, chain, group and chord."""
    app, request = task.app, task.request
    sig = maybe_signature(sig, app)
    if not isinstance(sig, Signature):
        raise TypeError(f"{task.name}: a task is replaced with a signature, such as add.s(2, 2), not {sig!r}")
    if "chord" in sig["options"]:
        raise ImproperlyConfigured(
            f"{task.name} cannot be replaced with {sig!r}, which belongs to a chord already"
        )
    if request.chord_additions:
        # What is added goes out with the success of this task, and a task that is replaced has none.
        raise ImproperlyConfigured(
            f"{task.name} cannot be replaced after add_to_chord(): let the task that takes its place add the "
            "call, or put both into its replacement"
        )
    steps = prepared([sig.clone()], app)
    if not steps:
        raise ImproperlyConfigured(f"{task.name} cannot be replaced with an empty chain")
    # The id is one task's: what ends in a group ends in a task that gathers the group's results.
    steps[-1] = synchronised(steps[-1], app)
    if not request.is_eager:  # its callbacks are called with the value that replace() returns
        _link(steps, request)
    for step in steps:
        _inherit(step, request)
    _forget_id(steps[-1])
    place = {"_id": request.id, "group_id": request.group, "group_index": request.group_index,
             "chord": request.chord}  # fmt: skip
    freeze_steps(steps, place, request.root_id, request.parent_id)
    following = [maybe_signature(each, app, clone=True) for each in reversed(request.chain or ())]
    for step in following:
        step.set(replaced_task_nesting=request.replaced_task_nesting + 1)
    whole = steps[0] if len(steps) == 1 and not following else chain.of([*steps, *following], app)
    family: dict[str, Any] = {"root_id": request.root_id, "parent_id": request.parent_id}
    return whole.set(**{key: value for key, value in family.items() if value})


def send_replacement(task: Task[..., Any], sig: Any) -> Any:
    """Send it in the step that ends the running task; run it here in eager mode or if called directly."""
    if task.request.is_eager or task.request.called_directly:
        from celeriac.app.state import allow_join_result

        with allow_join_result():
            return sig.apply().get()
    with task.app.publisher.collecting() as batch:
        sig.apply_async(add_to_parent=False)
    ignore = Ignore(f"replaced by {sig!r}")
    ignore.publications = tuple(batch)
    raise ignore


def add_to_chord(task: Task[..., Any], sig: Any, lazy: bool) -> Any:
    """See ``Task.add_to_chord``."""
    app, request = task.app, task.request
    if not request.chord:
        raise ValueError(f"{task.name}[{request.id}] is not in the header of a chord, to which it could add")
    made = synchronised(maybe_signature(sig, app, clone=True), app)
    if request.chord_additions is None:
        request.chord_additions = []
    # An id that another run of this task gives as well: what both have sent counts once.
    added = str(uuid5(NAMESPACE_OID, f"{request.id} brought in {len(request.chord_additions)}"))
    # No index: the results of added tasks come after those of the header, in no certain order.
    result = made.freeze(added, request.group, request.chord, request.root_id)
    request.chord_additions.append(made)
    return _Added(made, app=app) if lazy else result


class _Added(Signature):
    """A call that goes out with the success of the task that added it to its chord, and only then: sent at
    once it could end before that task, and be taken for the last one of the header."""

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result's handle; the message goes out by itself."""
        return self.app.AsyncResult(str(self.id))


def _forget_id(sig: Any) -> None:
    """Let the task in which ``sig`` ends get another id, should it be frozen."""
    while isinstance(sig, chord):
        sig = sig.body
    sig["options"].pop("task_id", None)


def _link(steps: Iterable[Any], request: Context) -> None:
    *_, last = steps
    for callback in listed(request.callbacks):
        last.link(maybe_signature(callback))
    for errback in listed(request.errbacks):
        for step in steps:
            step.link_error(maybe_signature(errback))


def _inherit(sig: Any, request: Context) -> None:
    """What the tasks of a replacement take over from the replaced call: its nesting, and its stamps."""
    nesting = {"replaced_task_nesting": request.replaced_task_nesting + 1}
    stamps: Mapping[str, Any] = request.stamps or {}
    names = [name for name in request.stamped_headers or () if name in stamps]
    if names:
        sig.stamp(**{name: stamps[name] for name in names}, **{NAMES: names})
    sig.set(**nesting)
