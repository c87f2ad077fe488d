"""Uses that a type checker must accept, with the types that it must see."""

from __future__ import annotations

from typing import Any, assert_type

from celeriac import AsyncResult, Celeriac, shared_task
from celeriac.result import EagerResult, GroupResult, Progress, ResultSet

app = Celeriac("typed")


@app.task
def add(x: int, y: int = 2) -> int:
    return x + y


@app.task(max_retries=3)
def name(x: int) -> str:
    return str(x)


@app.task(bind=True, name="bound")
def bound(self: Any, x: int) -> float:
    return float(x)


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@shared_task
def shared(x: int) -> list[int]:
    return [x]


@shared_task(bind=True, ignore_result=True)
def shared_bound(self: Any, x: int) -> None: ...


assert_type(add.delay(1), AsyncResult[int])
assert_type(add.delay(1, y=3).get(), int)
assert_type(add(1), int)
assert_type(add.apply((1,)).get(), int)
assert_type(add.enqueue_many([(1,)]), list[AsyncResult[int]])
assert_type(name.delay(1).get(timeout=1), str)
assert_type(bound.delay(1).get(), float)
assert_type(fetch.delay("u").get(), bytes)
assert_type(shared.delay(1).get(), list[int])
shared_bound.delay(1)
add.s(1)
assert_type(add.apply((1,)), EagerResult[int])
assert_type(add.delay(1).progress, Progress | None)
together: ResultSet[int] = app.ResultSet(add.enqueue_many([(1,)]))
assert_type(together.get(timeout=1), list[int])
assert_type(app.GroupResult.restore("id"), GroupResult[Any] | None)
for update in add.delay(1).updates(timeout=1):
    assert_type(update, Progress)
    assert_type(update.fraction, float | None)


async def main() -> None:
    assert_type(await add.adelay(1), AsyncResult[int])
    assert_type(await (await add.adelay(1)), int)
    assert_type(await fetch("u"), bytes)
    assert_type(await together, list[int])
    async for member in together.as_completed(timeout=1):
        member.get()
    async for update in add.delay(1).aupdates():
        assert_type(update, Progress)
