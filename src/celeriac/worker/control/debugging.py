"""The commands for who looks for leaks of memory. They look at the agent's process, as in Celery at its main
one; in solo that is the whole worker."""

from __future__ import annotations

import logging
import os
import resource
import sys
import tempfile
from collections import deque
from typing import Any

from celeriac.worker.control.panel import inspect_command
from celeriac.worker.control.state import State

logger = logging.getLogger("celeriac.worker.control")

_samples: deque[float] = deque(maxlen=1000)


@inspect_command()
def memsample(state: State, **kwargs: Any) -> str:
    """Take a sample of the memory in use, for memdump."""
    _samples.append(_resident())
    return _shown(_samples[-1])


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: State, samples: int = 10, **kwargs: Any) -> str:
    """The samples that memsample took, and the memory in use now."""
    kept = list(_samples)
    step = max(1, len(kept) // max(1, int(samples)))
    lines = [f"- {_shown(each)}" for each in kept[::step]]
    return "\n".join([*lines, f"- rss: {_shown(_resident())}.", ""])


@inspect_command(
    default_timeout=60.0,
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
def objgraph(
    state: State, num: int = 200, max_depth: int = 10, type: str = "Request", **kwargs: Any
) -> dict[str, str]:
    """Draw what keeps objects of a type alive, with the library objgraph."""
    try:
        import objgraph as graphs  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise ImportError("Requires the objgraph library") from None
    logger.info("Drawing what refers to objects of type %r: ordered", type)
    with tempfile.NamedTemporaryFile(prefix="celeriac-", suffix=".png", delete=False) as file:
        objects = graphs.by_type(type)[:num]
        known = {id(each) for each in objects}
        graphs.show_backrefs(
            objects, max_depth=max_depth, highlight=lambda each: id(each) in known, filename=file.name
        )
    return {"filename": file.name}


def _resident() -> float:
    """MiB of memory in use; where the system does not tell, the most there was."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _shown(size: float) -> str:
    return f"{size:.1f}MB"
