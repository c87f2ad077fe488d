"""Security with real workers: signatures, formats that are not accepted, secrets that are not shown."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from typing import Any

import pytest

from celeriac import Celeriac, chord
from celeriac.engines.groups import ChordPart
from celeriac.engines.results import ResultRecord
from celeriac.exceptions import ContentDisallowed, DecodeError, SecurityError
from celeriac.message import decode_envelope, encode_envelope
from tests.integration.conftest import HERE, Site, WorkerProcess
from tests.integration.test_bad_input import await_letters, put
from tests.processes import LoggedProcess

pytestmark = pytest.mark.timeout(90)

KEY, NEXT_KEY = "the secret of these tests", "the secret that follows it"


class GuardedWorker(WorkerProcess):
    """A worker of ``tests/integration/guarded_project.py``."""

    def __init__(self, site: Site, *arguments: str, **conf: Any) -> None:
        command = [
            sys.executable, "-m", "celeriac", "-A", "tests.integration.guarded_project:app", "worker",
            "-l", "DEBUG", "-c", "1", "-n", f"w{len(site.workers)}@%h", *arguments,
        ]  # fmt: skip
        env = {**site.env, "TEST_CONF": json.dumps(conf)}
        LoggedProcess.__init__(self, command, env, HERE.parent.parent)
        site.workers.append(self)
        self.await_line("ready.")


def client(site: Site, **settings: Any) -> Celeriac:
    return Celeriac("client", broker=site.broker, backend=site.backend, set_as_current=False, **settings)


# -- signed messages ---------------------------------------------------------------------------------------


def test_only_signed_messages_run_and_only_signed_results_are_believed(site: Site) -> None:
    GuardedWorker(site, message_signing_keys=[NEXT_KEY, KEY])
    add, mark = "tests.integration.project.add", "tests.integration.project.mark"
    with closing(client(site, message_signing_keys=[KEY, NEXT_KEY])) as signed:
        good = signed.send_task(add, (2, 3))
        assert good.get(timeout=20) == 5

        site.app.send_task(mark, ("unsigned",))
        with closing(client(site, message_signing_keys=["some other secret"])) as stranger:
            stranger.send_task(mark, ("by a stranger",))
        moved = signed.publisher.build(add, ("a", "b"))
        moved.message.headers["task"] = mark
        put(site, encode_envelope(moved.message))
        letters = await_letters(site, 3)
        assert {letter.reason for letter in letters} == {"undecodable"}
        details = " ".join(letter.detail for letter in letters)
        for part in ("the message is not signed", "not in message_signing_keys", "signature is wrong"):
            assert part in details

        assert signed.backend is not None
        forged = json.dumps({"status": "SUCCESS", "result": 6, "task_id": good.id}).encode()
        signed.backend.store([ResultRecord("forged", "SUCCESS", forged, None, None)])
        with pytest.raises(SecurityError, match="not signed"):
            signed.AsyncResult("forged").get(timeout=5)
        # A signed result of another task does not do either.
        (stored,) = signed.backend.fetch([good.id]).values()
        signed.backend.store([ResultRecord("moved", "SUCCESS", stored, None, None)])
        with pytest.raises(SecurityError, match="another task"):
            signed.AsyncResult("moved").get(timeout=5)
    assert site.journal() == []


def test_retries_and_redeliveries_keep_their_signature(site: Site) -> None:
    worker = GuardedWorker(site, message_signing_keys=[KEY])
    with closing(client(site, message_signing_keys=[KEY])) as signed:
        retried = signed.send_task("tests.integration.project.flaky", (2,), countdown=0.1)
        assert retried.get(timeout=20) == 2
        once = signed.send_task("tests.integration.project.nap", (1.0, "slow"))
        site.await_journal(lambda lines: "start slow" in lines)
        worker.kill()
        GuardedWorker(site, message_signing_keys=[KEY])
        assert once.get(timeout=30) == "slow"


def test_chords_are_signed_and_a_forged_part_fails_its_chord(site: Site) -> None:
    GuardedWorker(site, message_signing_keys=[KEY])
    add, count = "tests.integration.project.add", "tests.integration.guarded_project.count"
    with closing(client(site, message_signing_keys=[KEY])) as signed:
        header = [signed.signature(add, (n, n)) for n in range(3)]
        good = chord(header, app=signed)(signed.signature(count))
        assert good.get(timeout=20) == 3

        # Forged parts for header tasks that nobody runs: whoever finishes the chord refuses them.
        header = [signed.signature(add, (n, n), queue="nowhere") for n in range(2)]
        bad = chord(header, app=signed)(signed.signature(count))
        assert bad.parent is not None
        assert signed.backend is not None
        parts = [
            ChordPart(bad.parent.id, task_id, index, json.dumps([1, task_id, "SUCCESS", 6]).encode())
            for index, task_id in enumerate(("x", "y"))
        ]
        assert signed.backend.record_parts(parts, "tester") == [bad.parent.id]
        assert signed.chords.finish(bad.parent.id, "tester")
        assert "not signed" in str(bad.get(timeout=5, propagate=False))


# -- formats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["yaml", "pickle"])
def test_a_format_that_is_not_accepted(site: Site, serializer: str) -> None:
    with closing(client(site, accept_content=["json", serializer])) as sender:
        result = sender.send_task("tests.integration.project.mark", ("x",), serializer=serializer)
    GuardedWorker(site)
    (letter,) = await_letters(site, 1)
    assert (letter.reason, letter.task_id) == ("undecodable", result.id)
    assert serializer in letter.detail
    assert site.journal() == []


def test_a_result_in_a_format_that_is_not_accepted_is_refused_where_it_is_read(site: Site) -> None:
    pickled = {"result_serializer": "pickle", "result_accept_content": ["pickle"]}
    GuardedWorker(site, **pickled)
    name = "tests.integration.project.add"
    with closing(client(site, **pickled)) as trusting:
        result = trusting.send_task(name, (2, 3))
        assert result.get(timeout=20) == 5
    with closing(client(site, result_serializer="pickle")) as careful:
        handle = careful.AsyncResult(result.id)
        with pytest.raises(ContentDisallowed, match="x-python-serialize"):
            handle.get(timeout=5)
        with pytest.raises(ContentDisallowed):
            handle.state  # noqa: B018
    with closing(client(site)) as plain, pytest.raises(DecodeError):
        plain.AsyncResult(result.id).get(timeout=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_root_does_not_read_pickle(site: Site) -> None:
    conf = json.dumps({"accept_content": ["json", "pickle"]})
    command = [sys.executable, "-m", "celeriac", "-A", "tests.integration.guarded_project:app", "worker"]
    env = {**site.env, "TEST_CONF": conf}
    refused = LoggedProcess(command, env, HERE.parent.parent)
    assert refused.process.wait(20) == 1
    refused.await_line("this worker runs as root and accepts pickle")
    forced = LoggedProcess([*command, "-l", "INFO"], {**env, "C_FORCE_ROOT": "1"}, HERE.parent.parent)
    forced.await_line("ready.")
    assert forced.stop() == 0


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen")]
)
def test_a_stored_exception_makes_nothing_but_exceptions(site: Site, module: str, name: str) -> None:
    """Compare CVE-2021-23727: a result that names a function as its exception must not call it."""
    GuardedWorker(site)
    result = site.app.send_task("tests.integration.guarded_project.plain_exception", (module, name))
    with pytest.raises(SecurityError, match=f"{module}.{name} is not an exception class"):
        result.get(timeout=20)


# -- secrets -----------------------------------------------------------------------------------------------


def test_secrets_are_seen_by_the_task_and_by_nobody_else(site: Site) -> None:
    own = "tests.integration.guarded_project"
    with closing(client(site, result_extended=True)) as sender:
        # A client that knows the tasks knows which of their arguments are secret.
        from tests.integration.guarded_project import details, give_up, unlock

        for task in (unlock, details, give_up):
            assert task.name.startswith(own)
        calls = [
            sender.publisher.build(unlock.name, ("1234-hunter2", {"password": "p-hunter2"}), task=unlock),
            sender.publisher.build(details.name, ("bob",), task=details),
            sender.publisher.build(give_up.name, ("t-hunter2",), task=give_up),
        ]
        assert "hunter2" not in json.dumps([call.message.headers for call in calls])
        sender.publisher.send(calls)
        worker = GuardedWorker(site, result_extended=True)
        ids = [call.message.headers["id"] for call in calls]
        results = [sender.AsyncResult(one) for one in ids]
        assert results[0].get(timeout=20) == "opened with 1234-hunter2"
        assert results[1].get(timeout=20)["api_key"] == "k-hunter2"
        error = results[2].get(timeout=20, propagate=False)
        assert "hunter2" not in str(error)
        assert results[0].args == ["***", {"password": "***"}]
        assert sender.backend is not None
        for payload in sender.backend.fetch([ids[2]]).values():
            assert b"hunter2" not in payload
    site.await_journal(lambda lines: lines == ["pin 1234-hunter2 p-hunter2"])
    worker.stop()
    assert "hunter2" not in worker.log
    assert "succeeded" in worker.log


def test_a_dead_letters_page_shows_no_secret(site: Site) -> None:
    site.app.send_task("no.such.task", kwargs={"password": "hunter2"})
    GuardedWorker(site)
    (letter,) = await_letters(site, 1)
    assert decode_envelope(letter.payload).headers["kwargsrepr"] == "{'password': '***'}"
