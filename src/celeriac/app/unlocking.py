"""``celery.chord_unlock``: a chord begun by a Celery client whose result store cannot count its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celeriac import states
from celeriac.canvas import maybe_signature
from celeriac.exceptions import MaxRetriesExceededError
from celeriac.message import new_id
from celeriac.result import GroupResult, result_from_tuple

if TYPE_CHECKING:
    from celeriac.task import Task


def unlock(
    task: Task[..., Any],
    group_id: str,
    callback: Any,
    interval: float | None,
    max_retries: int | None,
    result: Sequence[Any],
) -> None:
    """Retry every ``interval`` seconds (``result_chord_retry_interval``) until all of ``result`` are ready.

    Then the chord is opened and all its parts are recorded, as if our own client had begun it: the body goes
    out once, however often this is delivered, or fails with its error callbacks. After ``max_retries`` what
    is not ready counts as failed.
    """
    app = task.app
    members = [result_from_tuple(each, app) for each in result]
    given_up = None
    if not all(member.ready() for member in members):
        pause = app.conf.result_chord_retry_interval if interval is None else interval
        try:
            task.retry(countdown=pause, max_retries=max_retries)
        except MaxRetriesExceededError as error:
            given_up = error
    app.chords.open(group_id, len(members), maybe_signature(callback, app))
    if not members:
        return
    parts = [
        app.chords.part(_id(member), group_id, index, *_ended(member, given_up))
        for index, member in enumerate(members)
    ]
    by = f"unlock:{task.request.id}:{new_id()}"
    for group in app.backend.record_parts(parts, by):
        app.chords.finish(group, by)


def _id(member: Any) -> str:
    return str(member.id)


def _ended(member: Any, given_up: Exception | None) -> tuple[str, Any]:
    """State and result of a member of the header; of a group in it, the list of its results."""
    if isinstance(member, GroupResult):
        ends = [_ended(each, given_up) for each in member.results]
        failed = [end for end in ends if end[0] != states.SUCCESS]
        return failed[0] if failed else (states.SUCCESS, [value for _, value in ends])
    if given_up is not None and not member.ready():
        return states.FAILURE, given_up
    return member.state, member.result
