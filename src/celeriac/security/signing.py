"""Messages and results signed with a shared secret (HMAC-SHA256).

A signature is put around the serialised body, whatever serializer and compression made it::

    celeriac-signed 1 <key's id> <MAC in hex> <content type> <content encoding>\\n<body>

and sent under a content type of its own, so that nobody takes it for something else. The MAC covers the body,
its content type and encoding, and the headers that say what is done with it (:data:`COVERED`): a signed body
cannot be sent again under another task's name or id, nor after its ``expires``. A result names its task
inside, where the MAC covers it. (A serializer, as Celery's ``auth`` is one, never sees headers.)
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from celeriac.exceptions import DecodeError, ImproperlyConfigured, SecurityError
from celeriac.message import Message

CONTENT_TYPE: Final = "application/x-celeriac-signed"
CONTENT_ENCODING: Final = "binary"

COVERED: Final = (
    "task",
    "id",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "ignore_result",
    "compression",
)
"""The headers under the signature. What stores and monitors add or change (our own header, ``redelivered``,
stamps, the user's headers), and the properties, are not."""

MIN_KEY = 16
"""The fewest bytes a secret may have."""

_MAGIC: Final = b"celeriac-signed"
_VERSION: Final = b"1"
_RESULT: Final = "result"
"""Stands for the content type of a result, so that no message can pass for one, nor the other way round."""


class Signing:
    """Signs with the first of ``keys`` and accepts signatures by any of them.

    To change the secret: add the new one at the end everywhere, then put it first everywhere, then drop the
    old one. ``required=False`` lets unsigned data pass, for the time in which signing is introduced. Raises
    ``ImproperlyConfigured`` for a secret that is too short.
    """

    def __init__(self, keys: Sequence[str], required: bool = True) -> None:
        if not keys:
            raise ImproperlyConfigured("message_signing_keys: at least one secret is needed")
        if any(len(key.encode()) < MIN_KEY for key in keys):
            raise ImproperlyConfigured(
                f"message_signing_keys: a secret has fewer than {MIN_KEY} bytes. Make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        self.required = required
        self._keys = {_key_id(key.encode()): key.encode() for key in keys}
        self._signer = next(iter(self._keys))

    # -- messages ------------------------------------------------------------------------------------------

    def sign(self, message: Message) -> Message:
        """Return the message with its body signed."""
        body = self._wrap(
            message.body, message.content_type, message.content_encoding, _context(message.headers)
        )
        return Message(message.headers, message.properties, body, CONTENT_TYPE, CONTENT_ENCODING)

    def renew(self, message: Message) -> Message:
        """Sign again a message of ours whose headers have been changed since."""
        content_type, encoding, body = _split(message.body)[2:]
        return self.sign(Message(message.headers, message.properties, body, content_type, encoding))

    def open(self, message: Message) -> Message:
        """Check the signature and return the message with the body that was signed.

        Raises ``SecurityError`` saying what is wrong: no signature, an unknown key, changed data.
        """
        if message.content_type != CONTENT_TYPE:
            if not self.required:
                return message
            raise SecurityError(
                f"the message is not signed (content type {message.content_type!r}), and "
                "message_signing_required is on"
            )
        content_type, encoding, body = self._unwrap(message.body, _context(message.headers), "message")
        return Message(message.headers, message.properties, body, content_type, encoding)

    # -- results -------------------------------------------------------------------------------------------

    def sign_result(self, payload: bytes) -> bytes:
        """Return a stored result's bytes, signed."""
        return self._wrap(payload, _RESULT, CONTENT_ENCODING, None)

    def open_result(self, payload: bytes) -> bytes:
        """Check and take off the signature of a stored result; whose result it is, it says itself.

        Raises ``SecurityError``.
        """
        if not payload.startswith(_MAGIC):
            if not self.required:
                return payload
            raise SecurityError("the stored result is not signed, and message_signing_required is on")
        content_type, _, body = self._unwrap(payload, None, "stored result")
        if content_type != _RESULT:
            raise SecurityError("a message was stored in a result's place")
        return body

    # -- the form ------------------------------------------------------------------------------------------

    def _wrap(self, body: bytes, content_type: str, encoding: str, context: Any) -> bytes:
        signer = self._signer
        mac = _mac(self._keys[signer], body, content_type, encoding, context)
        head = (_MAGIC, _VERSION, signer.encode(), mac.encode(), content_type.encode(), encoding.encode())
        return b" ".join(head) + b"\n" + body

    def _unwrap(self, data: bytes, context: Any, what: str) -> tuple[str, str, bytes]:
        signer, mac, content_type, encoding, body = _split(data)
        key = self._keys.get(signer)
        if key is None:
            raise SecurityError(f"the {what} is signed with a key that is not in message_signing_keys")
        if not hmac.compare_digest(_mac(key, body, content_type, encoding, context), mac):
            raise SecurityError(
                f"the {what}'s signature is wrong: its content, or a header that says what it is for, was "
                "changed"
            )
        return content_type, encoding, body


def _split(data: bytes) -> tuple[str, str, str, str, bytes]:
    head, newline, body = data.partition(b"\n")
    try:
        magic, version, signer, mac, content_type, encoding = head.decode("ascii").split(" ")
    except ValueError:
        raise DecodeError("not signed data: its first line is not a signature") from None
    if magic.encode() != _MAGIC or version.encode() != _VERSION or not newline:
        raise DecodeError("not signed data of a version that is known here")
    return signer, mac, content_type, encoding, body


def _context(headers: Mapping[str, Any]) -> list[Any]:
    return [headers.get(name) for name in COVERED]


def _mac(key: bytes, body: bytes, content_type: str, encoding: str, context: Any) -> str:
    # JSON, because its text has one reading: no two contexts run together into the same bytes.
    head = json.dumps([content_type, encoding, context], separators=(",", ":"), default=str)
    return hmac.new(key, head.encode() + b"\n" + body, hashlib.sha256).hexdigest()


def _key_id(key: bytes) -> str:
    """Names a secret without giving it away."""
    return hmac.new(key, b"celeriac key id", hashlib.sha256).hexdigest()[:16]
