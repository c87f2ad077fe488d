"""The worker as the command line and programs start it: options, imports, banner, then a node."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celeriac import signals
from celeriac.exceptions import OperationalError, SecurityError
from celeriac.serialization import serializer
from celeriac.worker.options import Options, resolve

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac

logger = logging.getLogger("celeriac.worker")


class Worker:
    """A worker of ``app``. Options are named as the command line's flags are.

    Raises ``ImproperlyConfigured`` at once for options that cannot be.
    """

    def __init__(self, app: Celeriac, **flags: Any) -> None:
        self.app = app
        self.flags = flags
        self.hostname: str = ""

    def start(self) -> int:
        """Work until told to stop; return the exit code."""
        gc.disable()  # as in celeriac.__main__
        app, flags = self.app, self.flags
        for module in _listed(flags.get("include")):
            app.conf.include = (*app.conf.include, module)
        signals.celeryd_init.send(sender=flags.get("hostname"), instance=self, conf=app.conf, options=flags)
        app.import_tasks()
        app.finalize()
        opened_early = app.opened
        app.conf.check()
        _check_privileges(app)
        if any(app.steps.values()):
            from celeriac.worker.steps import check

            check(app)
        options = resolve(app, flags)
        if options.beat:
            _check_beat(app, options)
        self.hostname = options.name
        app.log.setup(
            options.loglevel,
            options.logfile,
            redirect_stdouts=app.conf.worker_redirect_stdouts,
            redirect_level=app.conf.worker_redirect_stdouts_level,
            hostname=options.name,
        )
        signals.celeryd_after_setup.send(sender=options.name, instance=self, conf=app.conf)
        if app.conf.broker_connection_retry_on_startup is False:
            app.broker.depth(options.queues)  # raises OperationalError if the broker cannot be reached
            app.disconnect()
        _check_tables(app)
        if flags.get("purge"):
            self._purge(options)
        if not flags.get("quiet"):
            from celeriac.worker.banner import banner

            # Not sys.stdout: that may be a log by now, and a banner is not a log line.
            print(banner(app, options), file=sys.__stdout__, flush=True)
        for note in (*app.conf.settled_notes(), *_pool_notes(app, options), *_store_notes(app, options)):
            logger.info("%s", note)
        signals.worker_init.send(sender=self)
        return self._run(options, opened_early)

    def _run(self, options: Options, opened_early: bool) -> int:
        gc.enable()
        if options.pool == "solo":
            from celeriac.worker.solo import Solo

            solo = Solo(self.app, options)
            code, again = solo.run(), solo.shutdown.restart
        else:
            from celeriac.worker.supervisor import Supervisor

            supervisor = Supervisor(self.app, options, opened_early)
            code, again = supervisor.run(), supervisor.shutdown.restart
        if again:
            logger.warning("Starting again")
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        return code

    def _purge(self, options: Options) -> None:
        count = self.app.broker.purge(options.queues)
        self.app.disconnect()
        logger.warning("Purged %d message(s) from %s", count, ", ".join(options.queues))


def _check_privileges(app: Celeriac) -> None:
    """Raise ``SecurityError`` if root would read pickle, unless ``C_FORCE_ROOT`` is set, as in Celery."""
    reads_pickle = serializer("pickle").content_type in app.accept_content
    if reads_pickle and os.geteuid() == 0 and not os.environ.get("C_FORCE_ROOT"):
        raise SecurityError(
            "this worker runs as root and accepts pickle, so who can write to its broker owns the "
            "machine: run it as another user (--uid), take pickle from accept_content, or set C_FORCE_ROOT=1"
        )


def _check_beat(app: Celeriac, options: Options) -> None:
    """Raise ``ImproperlyConfigured`` for periodic tasks that cannot be, before anything is started."""
    from celeriac.beat.entries import definitions
    from celeriac.beat.scheduler import find_scheduler

    find_scheduler(app, options.scheduler)
    definitions(app, app.conf.beat_schedule)


def _check_tables(app: Celeriac) -> None:
    """Raise ``SchemaError`` if a store's tables are of another version: no process of ours could work there.

    A store that cannot be reached now is waited for later.
    """
    checks: list[Callable[[], None]] = [s.check_tables for s in app.stores if hasattr(s, "check_tables")]
    for check in checks:
        with suppress(OperationalError):
            check()
    if checks:
        app.disconnect()


def _pool_notes(app: Celeriac, options: Options) -> list[str]:
    """What the chosen pool cannot keep, said once at start-up."""
    limited = [name for name, task in app.tasks.items() if task.time_limit or task.soft_time_limit]
    notes = []
    named = f" ({', '.join(sorted(limited)[:5])})" if limited else ""
    if options.pool == "solo" and (limited or options.time_limit or options.soft_time_limit):
        notes.append(f"The solo pool cannot keep time limits{named}: use prefork for them")
    hard = options.time_limit or any(app.tasks[name].time_limit for name in limited)
    if options.pool == "threads" and hard:
        notes.append(f"The threads pool cannot keep hard time limits{named}: only soft ones are raised")
    if options.pool == "solo" and (options.max_memory_per_child or options.max_tasks_per_child):
        notes.append("The solo pool cannot replace its process: limits of tasks and memory have no effect")
    return notes


def _store_notes(app: Celeriac, options: Options) -> list[str]:
    """What the chosen stores cannot keep, said once at start-up."""
    notes = []
    if app.conf.worker_enable_remote_control and not hasattr(app.broker, "serve_orders"):
        notes.append(
            f"{app.broker_shown} carries no remote control: commands of inspect and control do not reach "
            "this worker (revokes and rate limits do, where a store keeps them)"
        )
    coordinator: object = app.coordinator
    if coordinator is None:
        notes.append(
            f"{app.broker_shown} is a broker only, and no result_backend can coordinate: revoked tasks, rate "
            "limits, concurrency limits and checkpoints are not kept. Set result_backend to SQLite, "
            "PostgreSQL or Redis"
        )
    elif coordinator is not app.broker:
        named = sorted(name for name, task in app.tasks.items() if getattr(task, "max_concurrency", None))
        if named:
            notes.append(
                f"max_concurrency is not kept ({', '.join(named[:5])}): {app.broker_shown} does not count "
                "what runs. Use a broker_url of SQLite, Redis or PostgreSQL for these tasks"
            )
    debounced = sorted(name for name, task in app.tasks.items() if getattr(task, "debounce", None))
    if debounced and not getattr(app.broker, "reaches_delayed", True):
        notes.append(
            f"debounce does not work ({', '.join(debounced[:5])}), calls raise an error: {app.broker_shown} "
            "cannot replace a message that is delayed. Use a broker_url of SQLite, Redis or PostgreSQL"
        )
    if options.task_events and app.events.carrier is None:
        notes.append(
            f"-E: {app.broker_shown} carries no events. Redis and RabbitMQ do; here 'celeriac history' shows "
            "each attempt of a task"
        )
    ack_timeout = getattr(app.broker, "ack_timeout", None)
    if ack_timeout is not None and (patience := ack_timeout(options.queues)):
        limits = {name: task.time_limit or options.time_limit for name, task in app.tasks.items()}
        long = sorted(name for name, limit in limits.items() if limit and limit > patience)
        if long:
            notes.append(
                "RabbitMQ delivers a task again that runs longer than its consumer_timeout "
                f"({patience:g} s as far as is known), and these may: {', '.join(long[:5])}. Raise it in "
                'rabbitmq.conf, and say so in broker_transport_options={"consumer_timeout": seconds}, or for '
                'a queue by its argument "x-consumer-timeout" (milliseconds, from RabbitMQ 3.12 on)'
            )
    return notes


def _listed(value: Any) -> list[str]:
    if not value:
        return []
    return value.split(",") if isinstance(value, str) else list(value)
