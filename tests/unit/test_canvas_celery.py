"""Canvases against the real Celery: what is written, what is sent, what comes out when they run here."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import celeriac
from celeriac import Celeriac
from celeriac.canvas import Signature, StampingVisitor, maybe_signature
from tests.unit.canvas_bench import Bench
from tests.unit.helpers import body, messages

CANVASES = {
    "task": "c = add.s(1, 2)",
    "options": "c = add.s(1, 2).set(countdown=0, queue='celery', priority=3)",
    "keyword arguments": "c = add.s(1, y=2)",
    "immutable": "c = add.si(1, 2)",
    "links": "c = add.s(1, 2); c.link(add.s(3)); c.link(add.si(4, 4)); c.link_error(old.s())",
    "on_error": "c = add.s(1, 2).on_error(old.s()).on_error(old.si('x'))",
    "clone": "c = add.s(2).clone((1,), {}, countdown=0)",
    "replace": "c = add.s(2).replace(args=(1, 2), options={'priority': 1})",
    "chain": "c = add.s(1, 2) | add.s(3) | add.s(4)",
    "chain()": "c = chain(add.s(1, 2), add.s(3), add.s(4))",
    "chain of a list": "c = chain([add.s(1, 2), add.s(3)])",
    "chain of one": "c = chain(add.s(1, 2))",
    "chain with options": "c = chain(add.s(1, 2), add.s(3)).set(priority=5)",
    "chain with links": "c = add.s(1, 2) | add.s(3); c.link(add.s(4)); c.link_error(old.s())",
    "chain in a chain": "c = chain(add.s(1, 2), chain(add.s(3), add.s(4)), add.s(5))",
    "chain | chain": "c = (add.s(1, 2) | add.s(3)) | (add.s(4) | add.s(5))",
    "task | chain": "c = add.s(1, 2) | (add.s(4) | add.s(5))",
    "linked chain | task": "c = add.s(1, 2) | add.s(3); c.link_error(old.s()); c = c | add.s(4)",
    "group": "c = group(add.s(1, 1), add.s(2, 2))",
    "group of a generator": "c = group(add.s(i, i) for i in range(3)); len(c.tasks)",
    "group of a group": "c = group(group(add.s(1, 1), add.s(2, 2)))",
    "empty group": "c = group()",
    "group with errback": "c = group(add.s(1, 1), add.s(2, 2)); c.link_error(old.s())",
    "group with link": "c = group(add.s(1, 1), add.s(2, 2)); c.link(add.s(3, 3))",
    "group with options": "c = group(add.s(1, 1), add.s(2, 2)).set(priority=5)",
    "skewed group": "c = group(add.s(1, 1), add.s(2, 2), add.s(3, 3)).skew(0, 1, 1)",
    "group with chain": "c = group(add.s(1, 1) | add.s(2), add.s(2, 2))",
    "task | group": "c = add.s(1, 1) | group(add.s(1), add.s(2))",
    "task | group of one": "c = add.s(1, 1) | group(add.s(1))",
    "chain | group": "c = add.s(1, 1) | add.s(1) | group(add.s(1), add.s(2))",
    "chain | empty group": "c = add.s(1, 1) | add.s(1) | group()",
    "group | task": "c = group(add.s(1, 1), add.s(2, 2)) | total.s()",
    "group | empty group": "c = group(add.s(1, 1), add.s(2, 2)) | group()",
    "group | group": "c = group(add.s(1, 1), add.s(2, 2)) | group(total.s(), listed.s())",
    "group | chain": "c = group(add.s(1, 1), add.s(2, 2)) | (total.s() | add.s(1))",
    "group | task | task": "c = group(add.s(1, 1), add.s(2, 2)) | total.s() | add.s(1)",
    "group | task | group": "c = group(add.s(1, 1), add.s(2, 2)) | total.s() | group(add.s(1), add.s(2))",
    "task | group | task": "c = add.s(1, 1) | group(add.s(1), add.s(2)) | total.s()",
    "task | group | task | task": "c = add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(1)",
    "task | group | task | group": (
        "c = add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | group(add.s(1), add.s(2))"
    ),
    "group | group | task": "c = group(add.s(1, 1), add.s(2, 2)) | group(total.s(), total.s()) | total.s()",
    "chain(group, task)": "c = chain(group(add.s(1, 1), add.s(2, 2)), total.s())",
    "chord": "c = chord([add.s(1, 1), add.s(2, 2)], total.s())",
    "chord of a group": "c = chord(group(add.s(1, 1), add.s(2, 2)), total.s())",
    "chord of a generator": "c = chord((add.s(i, i) for i in range(3)), total.s()); len(list(c.tasks))",
    "chord, no body": "c = chord([add.s(1, 1), add.s(2, 2)])",
    "chord, empty header": "c = chord([], listed.s())",
    "chord, links": "c = chord([add.s(1, 1)], total.s()); c.link(add.s(1)); c.link_error(old.s())",
    "chord, options": "c = chord([add.s(1, 1), add.s(2, 2)], total.s(), priority=5)",
    "chord, chain body": "c = chord([add.s(1, 1), add.s(2, 2)], total.s() | add.s(1))",
    "chord, group body": "c = chord([add.s(1, 1), add.s(2, 2)], group(total.s(), listed.s()))",
    "chord | task": "c = chord([add.s(1, 1), add.s(2, 2)], total.s()) | add.s(1)",
    "chord | chain": "c = chord([add.s(1, 1), add.s(2, 2)], total.s()) | chain(add.s(1), add.s(2))",
    "chord | group": "c = chord([add.s(1, 1), add.s(2, 2)], total.s()) | group(add.s(1), add.s(2))",
    "chord | chord": (
        "c = chord([add.s(1, 1), add.s(2, 2)], total.s()) | chord([add.s(1), add.s(2)], total.s())"
    ),
    "chord in a chord": "c = chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)], total.s())",
    "chord in a group": "c = group(chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3))",
    "chord as body": "c = chord([add.s(1, 1), add.s(2, 2)], chord([total.s(), total.s()], listed.s()))",
    "chain in a header": "c = chord([add.s(1, 1) | add.s(2), add.s(2, 2)], total.s())",
    "map": "c = total.map([[1, 2], [3]])",
    "starmap": "c = add.starmap([(1, 2), (3, 4)])",
    "chunks": "c = add.chunks([(1, 2), (3, 4), (5, 6)], 2)",
    "chunks.group": "c = add.chunks([(1, 2), (3, 4), (5, 6)], 2).group(); len(list(c.tasks))",
    "stamped task": "c = add.s(1, 2); c.stamp(a=1, b=['x'])",
    "stamped twice": "c = add.s(1, 2); c.stamp(a=1); c.stamp(a=2, b=3)",
    "stamped, appending": "c = add.s(1, 2); c.stamp(a=1); c.stamp(a=2, append_stamps=True)",
    "visited task": "c = add.s(1, 2); c.stamp(Visitor(), on_signature='mine')",
    "visited links": "c = add.s(1, 2); c.link(add.s(3)); c.link_error(old.s()); c.stamp(Visitor(), a=1)",
    "visited chain": "c = add.s(1, 2) | add.s(3) | add.s(4); c.stamp(Visitor(), a=1)",
    "visited chain with links": "c = add.s(1, 2) | add.s(3); c.link(add.s(7)); c.stamp(Visitor())",
    "visited group": "c = group(add.s(1, 1), add.s(2, 2)); c.stamp(Visitor())",
    "visited chord": "c = chord([add.s(1, 1), add.s(2, 2)], total.s()); c.stamp(Visitor())",
    "visited all": (
        "c = add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | group(add.s(1), add.s(2)); "
        "c.stamp(Visitor(), a=1)"
    ),
}

PARENTS_OTHERWISE = {
    "group | chain", "group | task | task", "group | group | task", "chord, chain body", "chord | task",
    "chord | chord", "chord as body",
}  # fmt: skip
"""Where a chord's body is more than a task, Celery makes the header the parent of its result at once; here
the steps of the body, and its own header, lie in between."""


class Visitor(StampingVisitor):
    """As the peer's."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"on_signature": sig.task}

    def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any]:  # type: ignore[override]
        return {"on_group_start": len(sig.tasks)}

    def on_chain_start(self, sig: Any, **headers: Any) -> dict[str, Any]:  # type: ignore[override]
        return {"on_chain_start": len(sig.tasks)}

    def on_chord_header_start(self, sig: Any, **header: Any) -> dict[str, Any]:
        return {"on_chord_header_start": 1}

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        return {"on_chord_body": 1}

    def on_callback(self, callback: Any, **header: Any) -> dict[str, Any]:
        return {"on_callback": callback.task}

    def on_errback(self, errback: Any, **header: Any) -> dict[str, Any]:
        return {"on_errback": errback.task}


def ours(source: str) -> tuple[Celeriac, Signature]:
    bench = Bench()
    names: dict[str, Any] = {
        name: getattr(celeriac, name)
        for name in ("chain", "group", "chord", "chunks", "xmap", "xstarmap", "signature", "Signature")
    }
    names.update(add=bench.add, total=bench.total, listed=bench.listed, old=bench.old, Visitor=Visitor)
    exec(source, names)
    return bench.app, names["c"]


@pytest.mark.parametrize("name", CANVASES)
def test_it_is_written_as_celery_writes_it(celery_peer: Any, name: str) -> None:
    _, made = ours(CANVASES[name])
    theirs, shown = celery_peer.ask("make", CANVASES[name])
    assert normal(json.loads(json.dumps(made))) == normal(json.loads(theirs))
    assert plain(repr(made)) == plain(shown)


@pytest.mark.parametrize("name", CANVASES)
def test_each_reads_what_the_other_writes(celery_peer: Any, name: str) -> None:
    _, made = ours(CANVASES[name])
    written = json.dumps(made)
    if made["subtask_type"] != "chord" or made.body is not None:
        again = json.loads(celery_peer.ask("read_signature", written))
        assert normal(again) == normal(json.loads(written))
    theirs, _ = celery_peer.ask("make", CANVASES[name])
    read = maybe_signature(json.loads(theirs), made.app)
    assert json.loads(json.dumps(read)) == json.loads(theirs)
    assert plain(repr(read)) == plain(repr(made))


@pytest.mark.parametrize("name", [name for name in CANVASES if name not in ("chord, no body", "empty group")])
def test_it_is_sent_as_celery_sends_it(celery_peer: Any, name: str) -> None:
    app, made = ours(CANVASES[name])
    result = made.apply_async()
    found = messages(app) + messages(app, state="delayed")
    sent = [[each.headers, body(each)] for each in found]
    theirs, their_ids = celery_peer.ask("send", CANVASES[name])
    mine = json.loads(json.dumps([sent, ids_of(result)]))
    assert numbered(mine)[0] == numbered([theirs, their_ids])[0]
    assert (numbered(mine) == numbered([theirs, their_ids])) is (name not in PARENTS_OTHERWISE)


UNFIT = {"chord, no body", "chunks"}  # Celery cannot apply() these


@pytest.mark.parametrize("name", [name for name in CANVASES if name not in UNFIT])
def test_it_gives_here_what_it_gives_in_celery(celery_peer: Any, name: str) -> None:
    _, made = ours(CANVASES[name])
    assert json.loads(json.dumps(made.apply().get())) == celery_peer.ask("run", CANVASES[name])


def ids_of(result: Any) -> Any:
    if result is None:
        return None
    members = [ids_of(member) for member in getattr(result, "results", None) or ()]
    return [result.id, members, ids_of(result.parent)]


_FREE = ("origin", "eta", "celeriac", "reply_to")


def normal(value: Any, key: str = "") -> Any:
    """Without what differs by nature (origin, times) or has no meaning.

    Celery leaves options without a value, ``add_to_parent`` and the ids of parents in frozen signatures; it
    gives callbacks their ids when they are sent, and the members of a pending group no group id, or that of
    another group; a pending header is a group there and a list here; an empty chain is the same as none.
    Names of stamps have no order.
    """
    if isinstance(value, list):
        return sorted(value) if key == "stamped_headers" else [normal(v) for v in value]
    if not isinstance(value, dict):
        return value
    value = {k: normal(v, k) for k, v in value.items() if k not in _FREE}
    for name in ("callbacks", "errbacks", "link", "link_error"):
        for link in value.get(name) or ():
            _forget_ids(link)
    if "chain" in value:
        value["chain"] = value["chain"] or None
    if "subtask_type" in value:
        options = {k: v for k, v in value["options"].items() if v is not None and k != "add_to_parent"}
        value["options"] = options
        kwargs = value["kwargs"]
        if isinstance(kwargs.get("header"), dict):
            kwargs["header"] = kwargs["header"]["kwargs"]["tasks"]
        for member in kwargs.get("header") or (kwargs["tasks"] if value["subtask_type"] == "group" else ()):
            member["options"].pop("group_id", None)
    return value


def _forget_ids(sig: Any) -> None:
    sig["options"].pop("task_id", None)
    for link in [*sig["options"].get("link", ()), *sig["options"].get("link_error", ())]:
        _forget_ids(link)


def numbered(value: Any) -> Any:
    """The same, with ids replaced by their order of appearance."""
    text = json.dumps(normal(value), sort_keys=True)
    seen: dict[str, str] = {}
    pattern = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    return json.loads(re.sub(pattern, lambda m: seen.setdefault(m[0], f"id{len(seen)}"), text))


def plain(shown: str) -> str:
    """A signature's text, whatever kind of sequence holds its parts (Celery's says which)."""
    return shown.replace("<_regen: ", "").replace(">", "").translate(str.maketrans("()", "[]"))
