"""The client's side of one system, in that system's own environment.

``python -m bench.driver MODULE FUNCTION COUNT`` imports ``bench.peers.MODULE``, warms its connection up
when asked (``--warm N``), calls the function and prints a JSON object: ``seconds``, ``cpu`` (of this process)
and what the function ``returned``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
from time import perf_counter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("function")
    parser.add_argument("count", type=int)
    parser.add_argument("--warm", type=int, default=0, help="calls before the measured ones")
    options = parser.parse_args()
    function = getattr(importlib.import_module(f"bench.peers.{options.module}"), options.function)
    if options.warm:
        function(options.warm)
    cpu, started = _cpu(), perf_counter()
    returned = function(options.count)
    print(
        json.dumps({"seconds": perf_counter() - started, "cpu": _cpu() - cpu, "returned": returned}),
        flush=True,
    )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
