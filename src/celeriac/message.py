"""A task message, protocol 2: headers, properties and a serialised body.

The format is Celery's, byte for byte (docs.celeryq.dev, "Message Protocol", version 2), because
queues are shared with its clients and workers. On the wire the stores (Redis, SQLite, ...) hold an
*envelope*: kombu's JSON object with the body in base64. RabbitMQ carries the same parts natively.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict

import msgspec

from celeriac import extended_json, serialization
from celeriac.exceptions import DecodeError

OWN_HEADER: Final = "celeriac"
"""The one header of ours in a message; Celery's workers ignore it. See :class:`Notes`."""


class Notes(msgspec.Struct, omit_defaults=True):
    """What Celeriac writes about a message into the message (the header ``celeriac``).

    It is rewritten only by Python, when a lease is lost or a message is delayed again; the stores
    never look into an envelope.
    """

    reply: str | None = None
    """The client's reply address: results are announced there as well (``ResultBackend.reply_address``)."""
    sent: float | None = None
    """When the message was published, in epoch seconds of the client's clock."""
    held: bool = False
    """The store keeps the delay: a worker runs the message when it gets it and does not look at ``eta``."""
    forward: bool = False
    """It waited in the store and was made ready before its time, to be moved: ``eta`` says when it is due."""
    deliveries: int = 0
    """How many deliveries were started and lost with their worker."""
    lost: str | None = None
    """Set when the last run was ended from outside and must not be repeated (see ``engines.base.Loss``):
    whoever claims the message records the end instead of running it."""
    foreign: bool = False
    """It was sent on behalf of a message of another program, which may have begun the chord it belongs to:
    the chord's parts must bring the body along (``ChordPart.body``)."""
    unique: str | None = None
    """The unique key that the task holds until it has ended (``engines.base.Unique``)."""
    returned: float | None = None
    """When it was given back for the first time, in epoch seconds, where that is a copy and an end of the
    original. Both are there if a connection breaks in between: a result since then is that of the other.
    0.0 for what has perhaps been sent or run before: a result of any time counts."""
    replayed: float | None = None
    """When it was put back in line as a dead letter, in epoch seconds: results from before do not count."""


class Message(msgspec.Struct):
    """One task message, decoded as far as its envelope; the body is still serialised."""

    headers: dict[str, Any]
    """Protocol-2 headers (``id``, ``task``, ``eta``, ...) and the user's own, at top level."""
    properties: dict[str, Any]
    """AMQP-like properties: ``correlation_id``, ``reply_to``, ``priority``, ``delivery_info``, ..."""
    body: bytes
    """The serialised (perhaps compressed) ``[args, kwargs, embed]``."""
    content_type: str = "application/json"
    content_encoding: str = "utf-8"


class Embed(TypedDict):
    """What follows a task, the third part of its body; signatures are dicts in Celery's form."""

    callbacks: list[Any] | None
    errbacks: list[Any] | None
    chain: list[Any] | None
    """The rest of a chain in reverse: the last element is the next step."""
    chord: dict[str, Any] | None


# -- the envelope ------------------------------------------------------------------------------------


def encode_envelope(message: Message) -> bytes:
    """Return the message as kombu's JSON envelope, as it lies in a Redis list.

    A ``delivery_tag`` is added where the properties have none, and ``delivery_info``, which kombu's
    consumers need. Raises ``EncodeError`` if a header or property cannot be written as JSON.

    It takes a third of kombu's time, 2 us where that takes 6 (bench/codec.py).
    """
    properties = {
        "delivery_tag": message.properties.get("delivery_tag") or new_id(),
        "delivery_info": _NOWHERE,
        "priority": 0,
        **message.properties,
        "body_encoding": "base64",
    }
    envelope = {
        "body": message.body,  # msgspec writes bytes in base64, in half the time of two steps
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": message.headers,
        "properties": properties,
    }
    try:
        if _is_plain(message.headers, _HEADERS) and _is_plain(message.properties, _PROPERTIES):
            return extended_json.encode_plain(envelope)
    except Exception:
        pass  # a foreign object in a known field, lone surrogates, a circle: the slow way knows them
    envelope["body"] = binascii.b2a_base64(message.body, newline=False).decode("ascii")
    return serialization.json_dumps(envelope, envelope)


def decode_envelope(data: bytes) -> Message:
    """Return the message of an envelope; raises ``DecodeError`` saying what is wrong with it.

    Whatever kombu writes is read: bodies in base64 or as text, and messages of protocol 1, which have
    no headers. Only the envelope is looked at; :func:`decode_body` reads the body.
    """
    envelope = _parse(data)
    if envelope.body is None and not envelope.headers and not envelope.properties:
        raise DecodeError("not a task message: the JSON object has neither body nor headers nor properties")
    properties = envelope.properties or {}
    return Message(
        headers=envelope.headers or {},
        properties=properties,
        body=_decode_text(envelope.body or "", properties.get("body_encoding")),
        content_type=envelope.content_type or "application/json",
        content_encoding=envelope.content_encoding or "utf-8",
    )


class _Envelope(msgspec.Struct):
    """The envelope's form, which msgspec checks while it reads."""

    body: str | None = None
    content_encoding: str | None = msgspec.field(default=None, name="content-encoding")
    content_type: str | None = msgspec.field(default=None, name="content-type")
    headers: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None


_HEADERS: Final = frozenset(
    (
        OWN_HEADER,
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "compression",
        "celeriac",
    )
)
_PROPERTIES: Final = frozenset(
    (
        "correlation_id",
        "reply_to",
        "delivery_mode",
        "delivery_info",
        "priority",
        "expiration",
        "body_encoding",
        "delivery_tag",
    )
)


def _is_plain(fields: dict[str, Any], known: frozenset[str]) -> bool:
    """Tell whether the fast encoder may be used, taking the protocol's own fields to be what it says.

    Looking at all 28 of them took longer than writing them: 2.0 us against 0.8 us.
    """
    others = fields.keys() - known
    return not others or extended_json.is_plain({key: fields[key] for key in others})


_decode_struct: Final = msgspec.json.Decoder(_Envelope).decode
_NOWHERE: Final = {"exchange": "", "routing_key": ""}


def _parse(data: bytes) -> _Envelope:
    try:
        # Extended types may stand in headers; the body is base64 or escaped text and costs no look.
        if b'"__type__"' not in data:
            return _decode_struct(data)
    except (ValueError, RecursionError):
        pass  # json reads what msgspec will not (NaN, lone surrogates), and words the error
    try:
        return msgspec.convert(extended_json.loads(data), _Envelope)
    except DecodeError as error:
        raise DecodeError(f"not a task message: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not a task message: {error}") from error


def _decode_text(body: str, encoding: Any) -> bytes:
    try:
        if encoding != "base64":
            return body.encode("utf-8")
        try:
            return binascii.a2b_base64(body, strict_mode=True)
        except binascii.Error:
            # Some writers break the lines; anything else is damage.
            return binascii.a2b_base64("".join(body.split()), strict_mode=True)
    except ValueError as error:
        raise DecodeError(f"the message's body is damaged {encoding or 'text'}: {error}") from error


# -- our own notes -----------------------------------------------------------------------------------


def task_id_of(message: Message) -> str:
    """The id of the message's task, by which stores find what waits; "" if it tells none."""
    return str(message.headers.get("id") or message.properties.get("correlation_id") or "")


def notes(message: Message) -> Notes:
    """Return our notes on the message, empty ones if it carries none. Raises ``DecodeError`` for garbage."""
    written = message.headers.get(OWN_HEADER)
    if written is None:
        return Notes()
    try:
        return msgspec.convert(written, Notes)
    except msgspec.ValidationError as error:
        raise DecodeError(f"the header {OWN_HEADER!r} is not ours: {error}") from error


def with_notes(message: Message, noted: Notes) -> Message:
    """Return a copy of the message that carries these notes (none, if they are empty)."""
    headers = {key: value for key, value in message.headers.items() if key != OWN_HEADER}
    written = msgspec.to_builtins(noted)
    if written:
        headers[OWN_HEADER] = written
    return Message(headers, message.properties, message.body, message.content_type, message.content_encoding)


def note_sent_before(message: Message, since: float = 0.0) -> None:
    """Note on a message of ours that another copy of it may be out: before it runs, a result is looked for
    that was stored since then (epoch seconds)."""
    message.headers[OWN_HEADER] = {**message.headers[OWN_HEADER], "returned": since}


# -- the body ----------------------------------------------------------------------------------------


def encode_body(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    embed: Embed | None = None,
    serializer: str = "json",
    compression: str | None = None,
) -> tuple[bytes, str, str, dict[str, Any]]:
    """Return ``(body, content_type, content_encoding, headers to add)``.

    Raises ``EncodeError`` naming the argument that cannot be written (``args[0]: ...``).
    """
    chosen = serialization.serializer(serializer)
    content_type, content_encoding = chosen.content_type, chosen.content_encoding
    body = None
    if (not embed or not any(embed.values())) and chosen.encode is extended_json.dumps:
        body = _encode_plain_body(args, kwargs)
    if body is None:
        following = embed or _NOTHING
        parts = {"args": args, "kwargs": kwargs, **following}
        _, _, body = serialization.dumps((args, kwargs, following), serializer, parts)
    if compression is None:
        return body, content_type, content_encoding, {}
    body, label = serialization.compress(body, compression)
    return body, content_type, content_encoding, {"compression": label}


def decode_body(
    message: Message, accept: Container[str], limit: int | None = None
) -> tuple[Sequence[Any], dict[str, Any], Embed]:
    """Return ``(args, kwargs, embed)`` of the message.

    ``accept`` holds the content types that may be read, ``limit`` bounds a compressed body's size in
    bytes. A body of protocol 1 (a dict that holds the headers too) completes ``message.headers``.
    Raises ``ContentDisallowed``, or ``DecodeError`` saying what is wrong.
    """
    data = message.body
    label = message.headers.get("compression")
    if label:
        data = serialization.decompress(data, str(label), limit)
    body = serialization.loads(data, message.content_type, message.content_encoding, accept)
    if isinstance(body, dict):
        return _decode_old_body(message, body)
    if not isinstance(body, list | tuple) or len(body) != 3:
        raise DecodeError("the body is not [args, kwargs, embed]")
    args, kwargs, embed = body
    _check_arguments(args, kwargs)
    if embed is None or not embed:
        return args, kwargs, _NOTHING.copy()
    if not isinstance(embed, dict):
        raise DecodeError("the body's third part (callbacks, chain, chord) is not an object")
    return args, kwargs, {**_NOTHING, **embed}


def _encode_plain_body(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes | None:
    """Return the body of a task with nothing following it, if its arguments are plain JSON.

    The common case, in half the time: the third part needs no look.
    """
    try:
        if extended_json.is_plain(args) and (not kwargs or extended_json.is_plain(kwargs)):
            return extended_json.encode_plain((args, kwargs, _NOTHING))
    except (RecursionError, UnicodeEncodeError):
        pass  # as in encode_envelope
    return None


_NOTHING: Final[Embed] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _check_arguments(args: Any, kwargs: Any) -> None:
    if not isinstance(args, list | tuple):
        raise DecodeError("the task's positional arguments are not a list")
    if not isinstance(kwargs, dict):
        raise DecodeError("the task's keyword arguments are not an object")


def _decode_old_body(message: Message, body: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any], Embed]:
    """Read a body of protocol 1; the headers that it holds yield to the message's own (the hybrid form)."""
    args, kwargs = body.get("args") or [], body.get("kwargs") or {}
    _check_arguments(args, kwargs)
    found: dict[str, Any] = {key: body[key] for key in _OLD_HEADERS if key in body}
    if body.get("taskset"):
        found["group"] = body["taskset"]
    if body.get("utc", True):
        found.update({key: _in_utc(found[key]) for key in ("eta", "expires") if key in found})
    found["argsrepr"] = serialization.repr_args(args)
    found["kwargsrepr"] = serialization.repr_args(kwargs)
    message.headers = {**found, **message.headers}
    return (
        args,
        kwargs,
        {
            "callbacks": body.get("callbacks"),
            "errbacks": body.get("errbacks"),
            "chain": None,
            "chord": body.get("chord"),
        },
    )


_OLD_HEADERS: Final = (
    "task",
    "id",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "shadow",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "origin",
)


def _in_utc(moment: Any) -> Any:
    """Write the offset that protocol 1 leaves out."""
    if not isinstance(moment, str) or moment.endswith("Z") or "+" in moment or "-" in moment[10:]:
        return moment
    return f"{moment}+00:00"


# -- ids ---------------------------------------------------------------------------------------------


def new_id() -> str:
    """Return a new random UUID (version 4) as text. Safe in threads and over fork.

    A sixth of the time of ``str(uuid.uuid4())``: random bytes are asked for 64 ids at a time.
    """
    while True:
        try:
            return _ids.pop()
        except IndexError:
            _ids.extend(_make_ids())


def _make_ids() -> Iterable[str]:
    raw = bytearray(os.urandom(16 * _POOL))
    raw[6::16] = raw[6::16].translate(_VERSION)
    raw[8::16] = raw[8::16].translate(_VARIANT)
    return map("-".join, _split_hex(raw.hex()))


_split_hex: Final = re.compile("(.{8})(.{4})(.{4})(.{4})(.{12})").findall
_POOL: Final = 64
_VERSION: Final = bytes((byte & 0x0F) | 0x40 for byte in range(256))
_VARIANT: Final = bytes((byte & 0x3F) | 0x80 for byte in range(256))
_ids: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)  # or parent and child would give out the same ids
