"""The tests' application with what must not be seen, and signatures where ``TEST_CONF`` asks for them."""

from __future__ import annotations

from typing import Any

from tests.integration.project import add, app, note  # noqa: F401


@app.task(sensitive=("pin",), sensitive_result=True)
def unlock(pin: str, options: Any) -> str:
    note(f"pin {pin} {options['password']}")
    return f"opened with {pin}"


@app.task
def details(user: str) -> Any:
    return {"user": user, "api_key": "k-hunter2"}


@app.task(bind=True, max_retries=0)
def give_up(self: Any, token: str) -> None:
    raise self.retry()


@app.task
def plain_exception(module: str, name: str) -> None:
    """Fail with an exception that is stored under another name, as an attacker would write it."""
    raise type(name, (Exception,), {"__module__": module, "__qualname__": name})("id")


@app.task
def count(results: Any) -> int:
    return len(results)
