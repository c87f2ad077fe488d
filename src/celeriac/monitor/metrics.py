"""Metrics as Prometheus reads them: its text format, version 0.0.4.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of run times, in seconds: those of Prometheus' clients, which celery-exporter uses."""
WAIT_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""The same of times in a queue."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Histogram:
    """How many values fell into which bucket: a count for each bound, and one for what is above them all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of the values."""


class Metrics:
    """Collects samples, and writes them family by family."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(
        self, name: str, kind: str, text: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """A sample of a ``counter`` or ``gauge``; ``text`` explains the metric."""
        self._family(name, kind, text).append(_sample(name, labels or {}, value))

    def histogram(self, name: str, text: str, seen: Histogram, labels: Mapping[str, str]) -> None:
        """A histogram."""
        lines, below = self._family(name, "histogram", text), 0
        for bound, count in zip((*seen.bounds, math.inf), seen.counts, strict=True):
            below += count
            lines.append(_sample(f"{name}_bucket", {**labels, "le": _number(bound)}, below))
        lines.append(_sample(f"{name}_count", labels, below))
        lines.append(_sample(f"{name}_sum", labels, seen.total))

    def text(self) -> str:
        """All of it."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterable[str]:
        for lines in self._families.values():
            yield from lines

    def _family(self, name: str, kind: str, text: str) -> list[str]:
        if name not in self._families:
            self._families[name] = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        return self._families[name]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{label}="{str(text).translate(_ESCAPES)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) else repr(float(value))
