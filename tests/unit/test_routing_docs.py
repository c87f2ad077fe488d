"""The examples of docs/routing.md run, and each message goes where its comment says."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.engines.base import NodeInfo
from celeriac.routing.queues import Binding

DOCS = Path(__file__).parents[2] / "docs" / "routing.md"
OWN = "bcast.news.1"


def waiting(app: Celeriac) -> dict[str, int]:
    return {name: sum(depth[:2]) for name, depth in app.broker.depth(app.broker.queues()).items()}


def test_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://docs-routing")
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "docs"}
    checked = 0
    for block in blocks:
        for statement in ast.parse(block).body:
            promise = re.search(r"# goes to: (.*)", block.splitlines()[(statement.end_lineno or 0) - 1])
            if not promise:
                exec(compile(ast.Module([statement], []), "routing.md", "exec"), namespace)
                continue
            app: Celeriac = namespace["app"]
            app.broker.beat(NodeInfo("n", "w@h", "h", 1, 1.0, 1000.0))
            app.broker.bind([Binding("news", "fanout", "", OWN)], "n")
            before = waiting(app)
            exec(compile(ast.Module([statement], []), "routing.md", "exec"), namespace)
            got = {name for name, count in waiting(app).items() if count != before.get(name, 0)}
            said = promise[1].replace("every worker that takes news", OWN)
            assert got == {name.strip() for name in said.split(",")}, ast.unparse(statement)
            checked += 1
    assert checked == 15
    namespace["app"].close()
