"""The command line ``celeriac``: one module a group of commands.

``root`` holds the global options and finds the commands, whose modules are imported only when they run;
``session`` finds the application; ``output`` prints tables and JSON; ``options`` has the option types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


def start(app: Celeriac, arguments: Sequence[str] | None = None) -> None:
    """Run the command line for ``app``, with ``arguments`` or the process's (``app.start``, ``worker_main``).

    Returns when the command has ended well; otherwise raises ``SystemExit`` with its status.
    """
    from celeriac.cli.root import run

    status = run(arguments, app)
    if status:
        raise SystemExit(status)
