"""The Lua scripts (``scripts/*.lua``), made ready for one configuration and run by their hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError, RedisError

from celeriac.engines import groups, schedule
from celeriac.engines.redis.connection import Link, Word, pack
from celeriac.engines.redis.keys import Keys

_INCLUDE: Final = re.compile(r"^ *-- include: (\w+)\n", re.MULTILINE)


class Layout(NamedTuple):
    """What is written into the scripts as constants."""

    prefix: str
    lanes: tuple[str, ...]
    db: int
    result_prefix: str
    result_db: int
    dead_max: float
    dead_age: float
    tombstone: float
    history_max: int
    scope: str

    @classmethod
    def of(cls, keys: Keys, db: int, options: dict[str, float], scope: str = "") -> Layout:
        """The layout in which results lie beside the messages."""
        lanes = tuple(keys.suffixes)
        return cls(keys.prefix, lanes, db, keys.prefix, db, scope=scope, **options)  # type: ignore[arg-type]


class Script:
    """One script; :meth:`run` sends it by hash, and whole if the server has forgotten it."""

    def __init__(self, name: str, layout: Layout) -> None:
        self.source = _constants(layout) + _text("common") + _text(name)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def run(self, link: Link, keys: Sequence[str], args: Sequence[Word]) -> Any:
        """Run it once. Raises as :meth:`Link.call`."""
        words = (len(keys), *keys, *args)
        try:
            link.connection.send_packed_command([pack(("EVALSHA", self.sha, *words))])
            return link.connection.read_response()
        except NoScriptError:
            # Safe to send again: nothing ran. A restart or SCRIPT FLUSH emptied the cache.
            return link.call(pack(("EVAL", self.source, *words)))
        except RedisError as error:
            link.fail(error)


class Scripts:
    """All scripts for one layout, made when first used."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._made: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        script = self._made.get(name)
        if script is None:
            script = self._made[name] = Script(name, self.layout)
        return script


@cache
def _text(name: str) -> str:
    """The text of a script; a line ``-- include: other`` stands for that of another."""
    text = (resources.files("celeriac.engines.redis") / "scripts" / f"{name}.lua").read_text("utf-8")
    return _INCLUDE.sub(lambda found: _text(found[1]), text)


def _constants(layout: Layout) -> str:
    lanes = ", ".join(_quoted(suffix) for suffix in layout.lanes)
    result_db = "false" if layout.result_db == layout.db else str(layout.result_db)
    return (
        f"local PREFIX, LANES, DB = {_quoted(layout.prefix)}, {{ {lanes} }}, {layout.db}\n"
        f"local RESULT_PREFIX, RESULT_DB = {_quoted(layout.result_prefix)}, {result_db}\n"
        f"local DEAD_MAX, DEAD_AGE, TOMBSTONE = {layout.dead_max}, {layout.dead_age}, {layout.tombstone}\n"
        f"local HISTORY_MAX = {layout.history_max}\n"
        f"local SCOPE = {_quoted(':' + layout.scope if layout.scope else '')}\n"
        f"local OWED_AGAIN, CLOCK_STEP = {groups.OWED_AGAIN}, {schedule.CLOCK_STEP}\n"
    )


def _quoted(text: str) -> str:
    return "'" + "".join(f"\\{byte:03d}" for byte in text.encode()) + "'"
