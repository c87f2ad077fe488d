"""Messages and results signed with a shared secret: what is covered, what is refused, how keys change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, signals
from celeriac.engines.base import Delivery, Outcome, Verdict
from celeriac.exceptions import ImproperlyConfigured, SecurityError
from celeriac.message import Message, Notes, encode_envelope, with_notes
from celeriac.security.signing import CONTENT_TYPE, Signing
from celeriac.worker.runner import Runner
from tests.unit.helpers import make_app, message, messages

OLD, NEW = "the old secret of the shop", "the new secret of the shop"


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = make_app()
    app.setup_security(hmac_key=OLD)

    @app.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="mul", shared=False)
    def mul(x: int, y: int) -> int:
        return x * y

    yield app
    app.close()


def take(app: Celeriac, sent: Message) -> Outcome:
    """What a worker makes of the message."""
    app.finalize()
    runner = Runner(app, "w@host", "owner", max_deliveries=3)
    job = runner.prepare(Delivery(7, "celery", encode_envelope(sent)))
    return job if isinstance(job, Outcome) else runner.run(job)


def refused(app: Celeriac, sent: Message) -> str:
    outcome = take(app, sent)
    assert (outcome.verdict, outcome.reason) == (Verdict.DEAD, "undecodable")
    assert outcome.result is None, "nobody vouches for the id"
    return outcome.detail or ""


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"serializer": "msgpack", "expires": 60}])
def test_a_signed_message_runs_and_its_result_is_signed(app: Celeriac, options: dict[str, Any]) -> None:
    app.conf.accept_content = ["json", "msgpack"]
    app.tasks["add"].apply_async((2, 3), **options)
    sent = message(app)
    assert sent.content_type == CONTENT_TYPE
    outcome = take(app, sent)
    assert outcome.verdict is Verdict.ACK
    assert outcome.result is not None
    assert outcome.result.payload.startswith(b"celeriac-signed 1 ")
    assert app.results.decode(outcome.result.payload, sent.headers["id"])["result"] == 5


def test_bulk_and_signals_that_change_headers(app: Celeriac) -> None:
    def stamp(headers: dict[str, Any], body: Any, **_: Any) -> None:
        headers["timelimit"] = [60, 30]
        assert body[1] == {}

    signals.before_task_publish.connect(stamp)
    try:
        app.tasks["add"].enqueue_many([(1, 2), (3, 4)])
        app.tasks["add"].delay(5, 6)
    finally:
        signals.before_task_publish.disconnect(stamp)
    assert [take(app, sent).verdict for sent in messages(app)] == [Verdict.ACK] * 3


def test_an_unsigned_message_is_refused(app: Celeriac) -> None:
    stranger = make_app()
    stranger.send_task("add", (2, 3))
    assert "the message is not signed" in refused(app, message(stranger))


def test_a_key_that_is_not_known_is_refused(app: Celeriac) -> None:
    stranger = make_app(message_signing_keys=[NEW])
    stranger.send_task("add", (2, 3))
    assert "a key that is not in message_signing_keys" in refused(app, message(stranger))


def test_changed_bodies_are_refused(app: Celeriac) -> None:
    app.tasks["add"].delay(2, 3)
    sent = message(app)
    sent.body = sent.body.replace(b"[2,3]", b"[2,4]")
    assert "signature is wrong" in refused(app, sent)


@pytest.mark.parametrize(
    "header",
    ["task", "id", "root_id", "parent_id", "group", "group_index", "eta", "expires", "retries", "timelimit",
     "ignore_result", "compression"],
)  # fmt: skip
def test_a_body_cannot_be_sent_again_for_something_else(app: Celeriac, header: str) -> None:
    app.tasks["add"].apply_async((2, 3), expires=3600)
    sent = message(app)
    sent.headers[header] = "mul" if header == "task" else "2099-01-01T00:00:00+00:00"
    assert "signature is wrong" in refused(app, sent)


def test_what_stores_and_workers_add_does_no_harm(app: Celeriac) -> None:
    app.tasks["add"].apply_async((2, 3), headers={"tenant": "a"})
    sent = with_notes(message(app), Notes(deliveries=1))
    sent.headers["redelivered"] = True
    sent.headers["tenant"] = "b"
    assert take(app, sent).verdict is Verdict.ACK


def test_the_label_inside_is_covered_too(app: Celeriac) -> None:
    app.conf.accept_content = ["json", "pickle"]
    app.tasks["add"].delay(2, 3)
    sent = message(app)
    sent.body = sent.body.replace(b"application/json", b"application/x-python-serialize")
    assert "signature is wrong" in refused(app, sent)


def test_keys_are_changed_without_a_gap(app: Celeriac) -> None:
    """Add the new key at the end, put it first, drop the old one: neighbours in this order understand."""
    stages = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    for before, after in itertools.pairwise(stages):
        for keys, others in ((before, after), (after, before)):
            sent = Signing(keys).sign(Message({"id": "1"}, {}, b"[]"))
            assert Signing(others).open(sent).body == b"[]"
    with pytest.raises(SecurityError, match="a key that is not in"):
        Signing([NEW]).open(Signing([OLD]).sign(Message({}, {}, b"[]")))


def test_results_must_be_signed_and_the_tasks_own(app: Celeriac) -> None:
    payload = app.results.encode({"status": "SUCCESS", "result": 5, "task_id": "a"})
    assert app.results.decode(payload, "a")["result"] == 5
    with pytest.raises(SecurityError, match="that of another task"):
        app.results.decode(payload, "b")
    with pytest.raises(SecurityError, match="not signed"):
        app.results.decode(b'{"status":"SUCCESS","result":5,"task_id":"a"}', "a")
    with pytest.raises(SecurityError, match="signature is wrong"):
        app.results.decode(payload.replace(b":5", b":6"), "a")


def test_a_forged_result_is_refused_at_the_line_that_reads_it(app: Celeriac) -> None:
    from celeriac.engines.results import ResultRecord

    result = app.tasks["add"].delay(2, 3)
    assert app.backend is not None
    forged = b'{"status":"SUCCESS","result":6,"task_id":"%s"}' % result.id.encode()
    app.backend.store([ResultRecord(result.id, "SUCCESS", forged, None, None)])
    with pytest.raises(SecurityError, match="not signed"):
        result.get(timeout=5)


def test_a_message_does_not_pass_for_a_result_nor_the_other_way_round(app: Celeriac) -> None:
    assert app.signing is not None
    app.tasks["add"].delay(2, 3)
    sent = message(app)
    with pytest.raises(SecurityError):
        app.signing.open_result(sent.body)
    sent.body = app.signing.sign_result(b"[[2,3],{},{}]")
    assert "signature is wrong" in refused(app, sent)


def test_unsigned_data_passes_while_signing_is_introduced(app: Celeriac) -> None:
    lenient = make_app(message_signing_keys=[OLD], message_signing_required=False)
    lenient.tasks.update({"add": app.tasks["add"]})
    stranger = make_app()
    stranger.send_task("add", (2, 3))
    assert take(lenient, message(stranger)).verdict is Verdict.ACK


def test_short_secrets_and_two_kinds_of_keys_are_mistakes() -> None:
    app = make_app()
    with pytest.raises(ImproperlyConfigured, match="fewer than 16 bytes"):
        app.setup_security(hmac_key="secret")
    with pytest.raises(ImproperlyConfigured, match="not both"):
        app.setup_security(hmac_key=OLD, key="key.pem")
    assert app.signing is None


def test_the_secret_is_shown_nowhere(app: Celeriac) -> None:
    assert app.signing is not None
    assert OLD not in app.bugreport() + repr(app.conf) + repr(app.signing)
