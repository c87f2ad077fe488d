"""Remote control, the worker's side: the commands that a worker answers, and how to add some.

A command is a function of the worker's :class:`~celeriac.worker.control.state.State` and of the arguments
that the sender gave::

    from celeriac.worker.control import inspect_command

    @inspect_command()
    def disk_free(state, path="/"):
        return shutil.disk_usage(path).free

What it returns is the answer, as JSON has it; what it raises is answered as ``{"error": ...}``. Commands run
one after another on a thread of the agent, so they should be quick, and work that takes long belongs in a
task.
"""

from celeriac.worker.control import debugging, inspecting, pool, queues, tasks  # noqa: F401 - they register
from celeriac.worker.control.panel import CommandInfo, Panel, control_command, inspect_command, nok, ok

__all__ = ["CommandInfo", "Panel", "control_command", "inspect_command", "nok", "ok"]
