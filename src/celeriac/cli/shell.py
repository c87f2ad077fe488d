"""``shell``: a Python shell in which the application and its tasks have names."""

from __future__ import annotations

import gc
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Final

import click

import celeriac
from celeriac.cli.errors import Failure
from celeriac.cli.options import Command, option, pass_session
from celeriac.cli.session import Session
from celeriac.platforms import EX_USAGE

_NAMES: Final = ("Task", "signature", "chain", "group", "chord", "chunks", "xmap", "xstarmap")


@click.command("shell", cls=Command)
@option("-I", "--ipython", "kind", flag_value="ipython", help="Use IPython.")
@option("-B", "--bpython", "kind", flag_value="bpython", help="Use bpython.")
@option("--python", "kind", flag_value="python", help="Use Python's own shell.")
@option("-T", "--without-tasks", is_flag=True, help="Do not give the tasks names.")
@option("--gevent", "patch", flag_value="gevent", help="Patch the standard library with gevent first.")
@option("--eventlet", "patch", flag_value="eventlet", help="Patch the standard library with eventlet first.")
@pass_session
def shell(session: Session, /, kind: str | None, without_tasks: bool, patch: str | None) -> None:
    """Start a Python shell with the application as ``app`` and each task by its function's name.

    Without a choice it is IPython, bpython or Python's own shell, whichever is installed.
    """
    if patch:
        _patch(patch)
    start = _shell(kind)
    names = namespace(session, without_tasks)
    gc.enable()
    start(names)


def namespace(session: Session, without_tasks: bool = False) -> dict[str, Any]:
    """The names that the shell starts with; a task does not hide one of the others."""
    app = session.application
    session.import_tasks()
    names: dict[str, Any] = {"app": app, "celery": app, "celeriac": celeriac}
    for name in _NAMES:
        found = getattr(celeriac, name, None)
        if found is not None:
            names[name] = found
    if not without_tasks:
        own = ("celery.", "celeriac.")
        tasks = {
            name.rpartition(".")[2]: task for name, task in app.tasks.items() if not name.startswith(own)
        }
        names = {**tasks, **names}
    return names


def _patch(library: str) -> None:
    try:
        module = importlib.import_module(library + (".monkey" if library == "gevent" else ""))
    except ImportError:
        raise Failure(f"--{library} needs the library: pip install 'celeriac[{library}]'", EX_USAGE) from None
    (module.patch_all if library == "gevent" else module.monkey_patch)()


def _shell(kind: str | None) -> Callable[[dict[str, Any]], None]:
    shells = {"ipython": ("IPython", _ipython), "bpython": ("bpython", _bpython)}
    for name, (module, start) in shells.items():
        if kind in (name, None) and importlib.util.find_spec(module) is not None:
            return start
        if kind == name:
            raise Failure(f"{module} is not installed: pip install {name}", EX_USAGE)
    return _python


def _ipython(names: dict[str, Any]) -> None:
    importlib.import_module("IPython").start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    importlib.import_module("bpython").embed(names)


def _python(names: dict[str, Any]) -> None:
    import code

    try:
        import readline
        import rlcompleter
    except ImportError:  # Python was built without it
        pass
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    shown = ", ".join(name for name in names if not name.startswith("__"))
    code.interact(banner=f"Celeriac {celeriac.__version__}: {shown}", local=names, exitmsg="")
