"""A task's own transaction, with which its outcome is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeriac.engines.base import Outcome
from celeriac.engines.postgres.settling import prepare, settle
from celeriac.engines.postgres.step import LET_GO, Step
from celeriac.engines.postgres.store import Connection, Store

if TYPE_CHECKING:
    from celeriac.engines.postgres.session import Session

_OWNER = "SELECT id FROM @owner WHERE name = %s"
_LOCK_OWNER = "SELECT id FROM @owner WHERE name = %s FOR UPDATE"
_HELD = "SELECT 1 FROM @message WHERE state = 1 AND owner = %s AND token = %s"


class TaskTransaction:
    """An open transaction on a session of its own, and the lease of the message it works for."""

    def __init__(
        self, store: Store, connection: Connection, handle: Session, lease: tuple[str, str, int]
    ) -> None:
        self.connection: Session = handle
        """For the task."""
        self._store = store
        self._session = connection
        self._owner, _, self._token = lease

    @classmethod
    def begin(cls, store: Store, lease: tuple[str, str, int]) -> TaskTransaction | None:
        """Open one; ``None`` if the lease is lost. Raises ``OperationalError``.

        No lock is held while the task runs: who takes the message over must not wait for it. The lease is
        locked, and looked at again, before the commit.
        """
        import psycopg

        session = store.session()
        try:
            if not _holds(session, _OWNER, lease[0], lease[2]):
                session.close()
                return None
            handle = session.open()
            handle.execute("BEGIN")
            handle.patience = None  # the task's own statements take as long as they take
        except psycopg.Error as error:
            raise session.failed(error) from error
        return cls(store, session, handle, lease)

    def check(self) -> None:
        """Raise what would keep the task's part from being committed this time and any other.

        ``RuntimeError`` if the task has ended the transaction itself or passed over an error in it, or what a
        constraint raises that was put off to the commit.
        """
        import psycopg

        handle = self.connection
        if handle.broken:
            return  # nobody's fault: the commit will say it
        if handle.closed or handle.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
            raise RuntimeError(
                "a transactional task must leave its transaction open: this one has committed it, rolled it "
                "back or closed its connection, or gone on after an error in a statement (put what may fail "
                "into `with connection.transaction()`)"
            )
        try:
            handle.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except psycopg.OperationalError:
            pass  # others were in the way, or the server went away: the commit will say it

    def commit(self, outcome: Outcome) -> list[str] | None:
        """Carry out the outcome and commit; return the chords that are owed now.

        ``None``: the lease was lost, and everything has been rolled back. Raises ``OperationalError`` if
        nothing was committed.
        """
        import psycopg

        handle = self.connection
        settlement = prepare(outcome)
        handle.patience = self._store.patience
        try:
            handle.row_factory = psycopg.rows.tuple_row  # whatever the task has made of it
            handle.execute(LET_GO)
            work = Step.within(self._store, handle)
            owners = work.run(_LOCK_OWNER, (self._owner,))
            if not owners:
                return None
            refused, owed = settle(work, owners[0][0], self._owner, [settlement])
            if refused:
                return None
            work.finish()
            handle.execute("COMMIT")
            return owed
        except psycopg.Error as error:
            if not self._was_committed():
                raise self._session.failed(error) from error
            return []
        finally:
            self._session.close()  # rolls back what is open

    def roll_back(self) -> None:
        """Undo what the task has done."""
        self._session.close()

    def _was_committed(self) -> bool:
        """Whether a commit whose answer did not come took place: then the lease has gone."""
        if not (self.connection.closed or self.connection.broken):
            return False
        with self._store.borrowed() as other:
            # The lock waits for the broken session's end.
            return not _holds(other, _LOCK_OWNER, self._owner, self._token)


def _holds(session: Connection, find: str, owner: str, token: int) -> bool:
    rows = session.run(find, (owner,))
    return bool(rows and session.run(_HELD, (rows[0][0], token)))
