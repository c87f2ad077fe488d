"""Uses that a type checker must refuse: every line marked E is an error."""

from __future__ import annotations

from typing import Any

from celeriac import Celeriac, shared_task

app = Celeriac("typed")


@app.task
def add(x: int, y: int = 2) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Any, x: int) -> float:
    return float(x)


@shared_task
def shared(x: int) -> int:
    return x


add.delay("x")  # E
add.delay()  # E
add.delay(1, z=3)  # E
add.s("x")  # E
bound.delay("x")  # E
shared.delay("x")  # E
text: str = add.delay(1).get()  # E


async def main() -> None:
    await add.adelay("x")  # E
