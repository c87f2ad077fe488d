"""Messages that came back: what is known of them, and which of them go together.

After a crash of the server everything in a queue has come back, and most of it was never started: so what
nothing is known of goes together. What has been the end of a worker goes alone: if it is again, it is
known which one it was. Before it is handed out that is noted (``ledger.py``), in case the whole node dies
with it. A note is a queue, and the server makes and deletes some fifty of them a second: so what came
back only because the server or a connection had ended goes without (``Buffer.excuses``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from celeriac.engines.rabbitmq import ledger
from celeriac.engines.rabbitmq.buffer import Buffer, Entry
from celeriac.engines.rabbitmq.session import Session

MOST_COMPANY: Final = 16
"""How many messages that came back are handed out at a time."""


class Suspects:
    """What one child does about them."""

    def __init__(self, buffer: Buffer, owner: str, timeout: float) -> None:
        self._buffer = buffer
        self._owner = owner
        self._timeout = timeout

    def company(self, session: Session, first: Entry, limit: int, now: float) -> list[Entry]:
        """What is handed out with ``first``, which has been taken from the buffer: ready, and noted."""
        company = [first]
        innocent, most = recall(session, first).innocent, min(limit, MOST_COMPANY)
        while innocent and len(company) < most and (entry := self._buffer.take_suspect(now)) is not None:
            if not recall(session, entry).innocent:
                self._buffer.put_back(entry)
                break
            company.append(entry)
        for entry in company:
            entry.apply(recall(session, entry))
        if not (innocent and self._buffer.excuses(first)):
            for entry in company:
                if entry.note is not None:
                    entry.note.together = len(company) > 1
                    entry.note.started = "" if entry.note.together else self._owner
            self.note(session, company)
        return company

    def note(self, session: Session, entries: Sequence[Entry]) -> None:
        """Keep at the server what is known of messages."""
        notes = [(entry.task_id, entry.note) for entry in entries if entry.note is not None]
        ledger.write(session, notes, self._timeout)
        for entry in entries:
            entry.noted = entry.note is not None


def recall(session: Session, entry: Entry) -> ledger.Note:
    """What is known of a message; the server is asked once."""
    if entry.note is None and entry.task_id:
        found = ledger.read(session, entry.task_id)
        entry.note, entry.noted = found or ledger.Note(), found is not None
    return entry.note or ledger.Note()
