"""Celery's public import paths, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PATHS = [
    "celeriac:Celeriac,Celery,shared_task,current_app,current_task,Task,Signature,signature,subtask,maybe_signature",
    "celeriac:uuid,bugreport,app_or_default,Queue,Exchange,AsyncResult,__version__",
    "celeriac.app:Celery,app_or_default,shared_task",
    "celeriac.app.base:Celery",
    "celeriac.app.task:Task,Context",
    "celeriac.app.control:Control",
    "celeriac.app.control:Inspect",
    "celeriac.app.control:flatten_reply",
    "celeriac.canvas:Signature,signature,subtask,maybe_signature",
    "celeriac.contrib.abortable:AbortableTask,AbortableAsyncResult,ABORTED",
    "celeriac.contrib.pytest:celery_app,celery_worker,celery_session_app,celery_session_worker,celery_config",
    "celeriac.contrib.pytest:celery_parameters,celery_enable_logging,celery_includes,celery_worker_pool",
    "celeriac.contrib.pytest:celery_worker_parameters,celery_class_tasks,use_celery_app_trap",
    "celeriac.contrib.pytest:depends_on_current_app,celeriac_app,celeriac_worker,celeriac_config",
    "celeriac.contrib.testing:drain,frozen",
    "celeriac.contrib.testing.app:TestApp,Trap,UnitLogging,setup_default_app,set_trap,DEFAULT_TEST_CONFIG",
    "celeriac.contrib.testing.manager:Manager,ManagerMixin,Sentinel",
    "celeriac.contrib.testing.mocks:TaskMessage,task_message_from_sig",
    "celeriac.contrib.testing.tasks:ping",
    "celeriac.contrib.testing.worker:start_worker,TestWorkController",
    "celeriac.contrib.testing.worker:test_worker_starting,test_worker_started,test_worker_stopped",
    "celeriac.app.events:Events",
    "celeriac.bin.celery:celery,main",
    "celeriac.events:Event,EventDispatcher,EventReceiver,event_exchange,get_exchange,group_from",
    "celeriac.events.dispatcher:EventDispatcher",
    "celeriac.events.dumper:Dumper,evdump,humanize_type",
    "celeriac.events.event:Event,group_from",
    "celeriac.events.receiver:EventReceiver",
    "celeriac.events.snapshot:Polaroid,evcam",
    "celeriac.events.state:State,Task,Worker,heartbeat_expires",
    "celeriac.exceptions:CeleryError,Retry,Ignore,Reject,MaxRetriesExceededError,SoftTimeLimitExceeded,TimeoutError",
    "celeriac.exceptions:OperationalError,TaskRevokedError,NotRegistered,ImproperlyConfigured,WorkerLostError",
    "celeriac.local:Proxy",
    "celeriac.result:AsyncResult,EagerResult,allow_join_result,denied_join_result,result_from_tuple",
    "celeriac.result:ResultBase,ResultSet,GroupResult,assert_will_not_block",
    "celeriac.beat:Scheduler,PersistentScheduler,Service,BeatLazyFunc",
    "celeriac.bootsteps:Step,StartStopStep,ConsumerStep",
    "celeriac.schedules:BaseSchedule,crontab,schedule,solar,crontab_parser,maybe_schedule,schedstate,ParseException",
    "celeriac.security:setup_security,disable_untrusted_serializers",
    "celeriac.signals:task_prerun,worker_ready",
    "celeriac.worker.state:active_requests,reserved_requests,scheduled_requests,total_count,revoked,SOFTWARE_INFO",
    "celeriac.worker.control:Panel,control_command,inspect_command",
    "celeriac.states:SUCCESS,READY_STATES",
    "celeriac.task:Task",
    "celeriac.utils:uuid,get_current_task",
    "celeriac.utils.graph:DependencyGraph,GraphFormatter,CycleError",
    "celeriac.utils.log:get_task_logger,get_logger",
]


@pytest.mark.parametrize("path", PATHS)
def test_the_path_is_there(path: str) -> None:
    module, _, names = path.partition(":")
    for name in names.split(","):
        assert hasattr(import_module(module), name), name


def test_what_has_no_counterpart_says_what_does_it_here() -> None:
    with pytest.raises(ImportError, match="celeriac -A proj events"):
        import_module("celeriac.events.cursesmon")
    with pytest.raises(ImportError, match="task_reserved"):
        exec("from celeriac.worker.state import task_reserved")
    state = import_module("celeriac.worker.state")
    with pytest.raises(AttributeError, match=r"app\.control"):
        _ = state.should_stop


@pytest.mark.parametrize(
    "module",
    [
        "celeriac.app",
        "celeriac.task",
        "celeriac.result",
        "celeriac.result.sets",
        "celeriac.utils.graph",
        "celeriac.canvas",
        "celeriac.utils",
        "celeriac.app.state",
    ],
)
def test_modules_can_be_imported_first(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, timeout=30)


def test_an_application_loads_no_engine_worker_or_command_line() -> None:
    code = (
        "import sys, celeriac; first = len(sys.modules)\n"
        "app = celeriac.Celeriac('x', broker='redis://localhost/0')\n"
        "app.task(lambda: 1)\n"
        "heavy = ('celeriac.worker', 'celeriac.cli', 'celeriac.engines.redis', 'redis', 'click', 'rich',"
        " 'pydantic', 'asyncio.events.x', 'yaml', 'sqlite3')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "[]"
