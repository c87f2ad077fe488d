"""Presence of a node whose broker keeps none: it is said to the store that workers agree by."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from celeriac.contrib.conformance.helpers import always, node
from celeriac.engines import create
from celeriac.engines.base import NodeInfo
from celeriac.engines.memory import forget
from celeriac.exceptions import Fenced
from celeriac.worker.node import host_identity, process_start
from celeriac.worker.presence import Presence

URL = "memory://presence"


@pytest.fixture
def store() -> Any:
    yield create(URL, {})
    forget(URL)


def here(name: str) -> NodeInfo:
    """A node of this process, which lives."""
    return msgspec.structs.replace(
        node(name), host=host_identity(), pid=os.getpid(), started=process_start(os.getpid())
    )


def names(store: Any) -> list[str]:
    return [one.name for one in store.nodes()]


def test_a_node_is_known_until_it_leaves(store: Any) -> None:
    presence = Presence(SimpleNamespace(coordinator=store, broker=object()), here("n"))  # type: ignore[arg-type]
    presence.beat()
    presence.beat()
    assert names(store) == ["celery@n"]
    presence.leave()
    assert names(store) == []


def test_one_that_was_forgotten_is_known_again(store: Any) -> None:
    presence = Presence(SimpleNamespace(coordinator=store, broker=object()), here("n"))  # type: ignore[arg-type]
    presence.beat()
    store.recover(host_identity(), always(False))
    with pytest.raises(Fenced):
        store.beat(here("n"))
    presence.beat()
    assert names(store) == ["celery@n"]


def test_the_next_agent_of_a_node_that_was_forgotten_twice_is_known_again(store: Any) -> None:
    """It begins with the node's own name. To be refused under the next one must not end what runs there."""
    app: Any = SimpleNamespace(coordinator=store, broker=object())
    presence = Presence(app, here("n"))
    for _ in range(3):
        presence.beat()
        store.recover(host_identity(), always(False))
    Presence(app, here("n")).beat()
    assert names(store) == ["celery@n"]


def test_where_the_broker_keeps_presence_nothing_is_said(store: Any) -> None:
    presence = Presence(SimpleNamespace(coordinator=store, broker=store), here("n"))  # type: ignore[arg-type]
    presence.beat()
    assert names(store) == []
    presence.leave()
    Presence(SimpleNamespace(coordinator=None, broker=store), here("n")).beat()  # type: ignore[arg-type]
    assert names(store) == []
