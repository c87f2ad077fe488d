"""What the workers of the canvas tests import: their tasks, noted in the journal."""

from __future__ import annotations

from typing import Any

from tests.canvas_tasks import define
from tests.integration.project import app, note


class Journal(list[Any]):
    def append(self, call: Any) -> None:
        note(" ".join(str(part) for part in call))


define(app, Journal())
