"""``celeriac migrate-from-celery``, on projects of Celery's, with Celery installed and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import celeriac
from celeriac.fromcelery.catalogue import ATTENTION, markdown
from celeriac.settings import SETTINGS
from tests.integration.test_celery_interop import celery_python

ROOT = Path(__file__).parents[2]

APP = """
from celery import Celery, bootsteps, shared_task
from celery.contrib import rdb
from celery.schedules import crontab
from celery.utils.log import get_task_logger
from kombu import Consumer, Exchange, Queue

logger = get_task_logger(__name__)
app = Celery("shop", broker="redis://:hidden@localhost/0")
app.config_from_object("shop.celeryconfig")


class Step(bootsteps.StartStopStep):
    def start(self, worker):
        pass


app.steps["worker"].add(Step)


@app.task(rate_limit="10/m", serializer="pickle")
def send(x):
    pass


@app.task(bind=True, acks_late=False)
def charge(self):
    pass


@app.task
def plain():
    pass
"""

CONFIG = """
from celery.schedules import crontab
from kombu import Queue

result_backend = "django-db"
broker_transport_options = {"visibility_timeout": 3600}
worker_pool_restarts = True
worker_concurrency = 4
worker_lost_wait = 20.0
task_serializer = "json"
accept_content = ["pickle", "json"]
task_queues = [Queue("a"), Queue("b")]
beat_schedule = {"x": {"task": "shop.send", "schedule": crontab(minute=5)}}
beat_scheduler = "redbeat.RedBeatScheduler"
task_ack_late = True
s3_bucket = "somewhere"
"""


@pytest.fixture(params=["with Celery", "without Celery"])
def with_celery(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "with Celery")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project of Celery's."""
    write(tmp_path, "shop/__init__.py", "")
    write(tmp_path, "shop/celery.py", APP)
    write(tmp_path, "shop/celeryconfig.py", CONFIG)
    write(tmp_path, "Procfile", "worker: celery -A shop worker -O fair --without-gossip -c 4 --autoreload\n")
    write(tmp_path, ".venv/lib/other.py", "from celery.contrib import sphinx\n")
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def look(folder: Path, *arguments: str, celery: bool = False, **environment: str) -> Any:
    """Run the command; what it says as JSON."""
    done = run(folder, *arguments, "--json", celery=celery, **environment)
    assert done.returncode in (0, 1), done.stderr
    told = json.loads(done.stdout)
    assert told["blocked"] == bool(done.returncode)
    return told


def run(
    folder: Path, *arguments: str, celery: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(celeriac.__file__).parents[1])]
    if celery:
        code = "import celery, os; print(os.path.dirname(os.path.dirname(celery.__file__)))"
        paths.append(subprocess.check_output([celery_python(), "-c", code], text=True).strip())
    return subprocess.run(
        [sys.executable, "-m", "celeriac", "migrate-from-celery", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def found(told: Any, key: str) -> str:
    """What was found of one kind, as text."""
    return "\n".join(next((one["found"] for one in told["attention"] if one["key"] == key), ["(nothing)"]))


def test_a_project_is_told_what_changes(shop: Path, with_celery: bool) -> None:
    told = look(shop, "-A", "shop", celery=with_celery)
    assert ("with Celery 5" in told["project"]) == with_celery
    assert told["tasks"] == 3
    assert told["refused"] == {"s3_bucket": SETTINGS["s3_bucket"].doc}
    assert told["settled"]["worker_lost_wait"] == SETTINGS["worker_lost_wait"].doc
    assert "broker_transport_options['visibility_timeout']" in told["settled"]
    assert told["stays"]["worker_concurrency"] == 4
    assert told["stays"]["broker_url"] == "redis://:**@localhost/0"
    assert "result_backend" not in told["stays"]
    assert "task_acks_late" in told["defaults"]
    assert told["shared"]
    assert found(told, "backend") == "result_backend = django-db"
    assert found(told, "scheduler") == "beat_scheduler = redbeat.RedBeatScheduler"
    assert found(told, "schedule") == "1 in beat_schedule"
    assert "accept_content = ['pickle', 'json']" in found(told, "formats")
    assert "send: serializer = 'pickle'" in found(told, "formats")
    assert found(told, "steps") == "worker: Step"
    assert found(told, "imports") == "celery.contrib.rdb (shop/celery.py:3)"
    assert found(told, "kombu") == "kombu.Consumer (shop/celery.py:6)"
    assert found(told, "rates") == "shop.celery.send: rate_limit = '10/m'"
    # In Celery's own application it cannot be told from the default.
    assert ("shop.celery.charge: acks_late = False" in found(told, "early")) != with_celery
    assert "plain" not in found(told, "early")
    assert "--without-gossip (Procfile:1): workers do not gossip" in found(told, "flags")
    assert "--autoreload (Procfile:1): there is no such option" in found(told, "flags")
    assert "-c (" not in found(told, "flags")
    assert found(told, "names") == "task_ack_late: probably task_acks_late"
    assert "hidden" not in json.dumps(told)


def test_what_is_said_of_an_option_is_said_as_it_is_written(shop: Path) -> None:
    told = look(shop, "-A", "shop")["settled"]["broker_transport_options['visibility_timeout']"]
    assert "Celery's workers left behind on Redis" in told


def test_each_of_celerys_commands_in_scripts_is_understood(shop: Path) -> None:
    write(
        shop,
        "run.sh",
        "celery -A shop events --camera shop.Cam -F 2 --odd\n"
        "celery multi start 3 -A shop -Q:1 mail -O:2 fair --nosplash --wrong:1=1\n"
        "celery multi stop 3 -KILL\n"
        "celery -A shop flower\n"
        "celery -A shop beat -s /var/run/schedule\n",
    )
    told = found(look(shop, "-A", "shop"), "flags")
    assert "events --odd (run.sh:1): there is no such option" in told
    assert "multi --wrong:1 (run.sh:2): there is no such option" in told
    assert "multi -O:2 (run.sh:2): children take their work themselves" in told
    assert "flower (run.sh:4)" in told
    assert "beat -s (run.sh:5): there is no schedule file" in told
    assert told.count("run.sh") == 5


def test_a_tidy_project_may_start_at_once(tmp_path: Path, with_celery: bool) -> None:
    arguments = "'shop', broker='redis://', backend='redis://', task_acks_late=True"
    code = f"from celery import Celery\napp = Celery({arguments})\n"
    write(tmp_path, "shop.py", code)
    told = look(tmp_path, "-A", "shop:app", celery=with_celery)
    assert not told["blocked"]
    assert [one["key"] for one in told["attention"]] == ["delays"]
    assert told["stays"]["task_acks_late"] is True


def test_the_application_is_named_as_for_celery(tmp_path: Path, with_celery: bool) -> None:
    write(tmp_path, "shop/__init__.py", "from celery import Celery\nmade = Celery('shop')\n")
    told = look(tmp_path, "-A", "shop.made", celery=with_celery)
    assert told["project"].startswith("shop.made, read with")


def test_a_module_of_settings_is_enough(tmp_path: Path) -> None:
    write(
        tmp_path,
        "celeryconfig.py",
        "BROKER_URL = 'sqs://'\nCELERYD_CONCURRENCY = 3\nCELERY_ACKS_LATE = True\n",
    )
    told = look(tmp_path, "--config", "celeryconfig")
    assert told["stays"] == {"task_acks_late": True, "worker_concurrency": 3}
    assert found(told, "broker") == "broker_url = sqs://"
    assert not told["shared"]


def test_django_s_settings_are_read_by_their_namespace(tmp_path: Path) -> None:
    write(
        tmp_path,
        "site/celery.py",
        "import os\nfrom celery import Celery\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site_settings')\n"
        "app = Celery('site')\n"
        "app.config_from_object('django.conf:settings', namespace='CELERY')\napp.autodiscover_tasks()\n",
    )
    (tmp_path / "site").rename(tmp_path / "shop_site")
    write(tmp_path, "shop_site/__init__.py", "from .celery import app\n")
    settings = "SECRET_KEY = 'x'\nBROKEN = 1\nCELERY_BROKER_URL = 'amqp://'\nCELERY_TASK_TIME_LIMIT = 60\n"
    write(
        tmp_path, "site_settings.py", settings + "CELERY_TASK_ACK_LATE = True\nCELERY_WORKER_POOL = 'x:Y'\n"
    )
    told = look(tmp_path, "-A", "shop_site")
    assert told["stays"] == {"broker_url": "amqp://", "task_time_limit": 60}
    assert found(told, "names") == "CELERY_TASK_ACK_LATE: probably task_acks_late"
    assert found(told, "pool") == "worker_pool = x:Y"


def test_the_environment_overrides_the_code(tmp_path: Path, with_celery: bool) -> None:
    write(tmp_path, "shop.py", "from celery import Celery\napp = Celery('shop', broker='redis://')\n")
    told = look(tmp_path, "-A", "shop", celery=with_celery, CELERY_BROKER_URL="sqs://")
    assert found(told, "broker") == "broker_url = sqs://"


def test_a_value_of_the_wrong_type_is_told(tmp_path: Path) -> None:
    write(tmp_path, "celeryconfig.py", "worker_concurrency = 'many'\n")
    told = look(tmp_path, "--config", "celeryconfig")
    assert "worker_concurrency: 'many' is not" in told["wrong"]["worker_concurrency"]


def test_results_in_a_database_are_told(tmp_path: Path) -> None:
    write(tmp_path, "celeryconfig.py", "result_backend = 'db+postgresql://u:hidden@h/d'\n")
    told = look(tmp_path, "--config", "celeryconfig")
    assert found(told, "database") == "result_backend = db+postgresql://u:**@h/d"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name the project"),
        (("-A", "nowhere"), "there is no module 'nowhere'"),
        (("-A", "json"), "no application in json"),
    ],
)
def test_what_cannot_be_read_is_said(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_people_get_the_same_in_words(shop: Path) -> None:
    done = run(shop, "-A", "shop")
    assert done.returncode == 1
    for words in ("s3_bucket: S3 is not supported", "Beat last", "3 tasks seen", "django-db"):
        assert words in done.stdout


def test_the_page_says_what_the_command_says() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text()
    assert markdown() in page
    assert len(ATTENTION) > 15
