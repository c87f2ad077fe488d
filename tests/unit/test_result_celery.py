"""Results beside Celery's: the same expressions give the same, and each restores the other's groups."""

from __future__ import annotations

import json
from typing import Any

import pytest

import celeriac.result
import celeriac.utils.graph
from celeriac import exceptions

from .conftest import CeleryPeer
from .helpers import make_app

EAGER = "EagerResult('i', 3, 'SUCCESS', None, 'name')"
FAILED = "EagerResult('i', KeyError('k'), 'FAILURE', 'trace')"
IGNORED = "EagerResult('i', exceptions.Ignore(), 'IGNORED')"
SET = "ResultSet([app.AsyncResult('a'), app.AsyncResult('b')], app=app)"
GROUP = "app.GroupResult('g', [app.AsyncResult('a')], parent=app.AsyncResult('p'))"
GRAPH = "DependencyGraph([('a', ['b', 'c']), ('b', ['c']), ('c', [])])"


@pytest.mark.parametrize(
    "expression",
    [
        f"[{EAGER}.get(), {EAGER}.wait(1), {EAGER}.result, {EAGER}.info, {EAGER}.state, {EAGER}.status]",
        f"[{EAGER}.name, {EAGER}.traceback, {EAGER}.date_done, {EAGER}.args, {EAGER}.parent, {EAGER}.app]",
        f"[{EAGER}.ready(), {EAGER}.successful(), {EAGER}.failed(), {EAGER}.forget(), {EAGER}.backend]",
        f"[{EAGER}.supports_native_join, {EAGER}.as_tuple(), {EAGER}.as_list(), {EAGER}.ignored]",
        f"[{EAGER} == 'i', {EAGER} == {EAGER}, list({EAGER}.collect()), {EAGER}.get_leaf(), {EAGER}]",
        f"[{EAGER}.maybe_throw(), {EAGER}.revoke()]",
        f"[(e, e.revoke(), e.state, e.get(propagate=False), e.traceback) for e in [{FAILED}]]",
        f"[{FAILED}.get(propagate=False), {FAILED}.traceback, {FAILED}.failed(), {FAILED}.ready()]",
        f"[{IGNORED}.get(), {IGNORED}.state, {IGNORED}.ready(), {IGNORED}.successful()]",
        f"ResultSet([{EAGER}, {EAGER}], app=app).get()",
        f"[(s.successful(), s.failed(), s.completed_count()) for s in [ResultSet([{EAGER}], app=app)]]",
        f"[(s.add(app.AsyncResult('c')), s.discard('d'), s.update(s[:1]), s, len(s)) for s in [{SET}]]",
        f"[{SET} == {SET}, {SET}, [*{SET}], {SET}.ready(), {SET}.waiting(), {SET}.failed()]",
        "[ResultSet([]).get(), ResultSet([]).ready(), ResultSet([]).supports_native_join]",
        f"[{GROUP}, str({GROUP}), {GROUP} == 'g', {GROUP} == {GROUP}, {GROUP}.children, {GROUP}.parent]",
        f"[{GROUP}.as_tuple(), bool({GROUP}), bool(app.GroupResult(results=[])), len({GROUP})]",
        f"[{GRAPH}.topsort(), len({GRAPH}), list({GRAPH}), 'a' in {GRAPH}, {GRAPH}['a'], {GRAPH}.adjacent]",
        f"[list({GRAPH}.edges()), [{GRAPH}.valency_of(x) for x in 'abcz'], list({GRAPH}.items())]",
        f"[(o, {GRAPH}.to_dot(o, GraphFormatter(root='r', shape='oval')), o.getvalue()) for o in "
        "[__import__('io').StringIO()]][0][2]",
        f"[(o, {GRAPH}.to_dot(o, GraphFormatter(type='graph', id='x', indent=1)), o.getvalue()) for o in "
        "[__import__('io').StringIO()]][0][2]",
    ],
)
def test_the_same_comes_out(celery_peer: CeleryPeer, expression: str) -> None:
    names: dict[str, Any] = vars(celeriac.result) | vars(celeriac.utils.graph)
    ours = repr(eval(expression, names | {"app": make_app(), "exceptions": exceptions}))
    assert ours == celery_peer.ask("evaluate", expression)


def test_groups_are_restored_from_each_other(celery_peer: CeleryPeer) -> None:
    app = make_app()
    group = app.GroupResult("g", [app.AsyncResult(id) for id in "ab"], parent=app.AsyncResult("p"))
    ours = app.results.encode_group(group.as_tuple()).decode()
    assert celery_peer.ask("restore_group", ours) == ["GroupResult", "g", "p", ["a", "b"]]
    theirs = celery_peer.ask("save_group", "g", "p", ["a", "b"])
    assert json.loads(theirs) == json.loads(ours)
    assert app.backend is not None
    app.backend.store_group("g", theirs.encode(), None)
    assert app.GroupResult.restore("g") == group
