"""Compression of message bodies and results, by the names and labels that Celery uses.

Celery's ``gzip`` is plain zlib data under the label ``application/x-gzip``; so it is here. Reading is
bounded: a few kilobytes must not unfold into all of the machine's memory.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from celeriac.exceptions import DecodeError, EncodeError

DECOMPRESSED_LIMIT: Final = 256 * 1024 * 1024
"""Most bytes that :func:`decompress` unfolds unless told otherwise."""


class Method(NamedTuple):
    """One compression method."""

    label: str
    """Its content type on the wire."""
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]
    """Called with the data and the most bytes wanted; it may return a few more, and raises any error."""


def compress(data: bytes, method: str) -> tuple[bytes, str]:
    """Return the compressed data and the label of ``method`` (a name such as ``"gzip"``, or the label).

    Raises ``EncodeError`` if there is no such method or its library is not installed.
    """
    found = _METHODS.get(method)
    if found is None:
        names = ", ".join(sorted(name for name in _METHODS if "/" not in name))
        raise EncodeError(f"There is no compression {method!r}. Use one of: {names}.")
    try:
        return found.compress(data), found.label
    except ImportError as error:
        raise EncodeError(str(error)) from error


def decompress(data: bytes, label: str, limit: int | None = None) -> bytes:
    """Return the original of ``data``, at most ``limit`` bytes (default ``DECOMPRESSED_LIMIT``).

    Raises ``DecodeError`` if the label is unknown, its library is not installed, the data is damaged or
    truncated, or the original is larger than the limit.
    """
    method = _METHODS.get(label)
    if method is None:
        raise DecodeError(f"compressed in an unknown way: {label!r}")
    most = DECOMPRESSED_LIMIT if limit is None else limit
    try:
        original = method.decompress(data, most + 1)
    except ImportError as error:
        raise DecodeError(str(error)) from error
    except Exception as error:  # every library has errors of its own, and garbage may raise any of them
        raise DecodeError(f"damaged {label} data: {error}") from error
    if len(original) > most:
        raise DecodeError(f"{len(data)} bytes of {label} unfold to more than the limit of {most} bytes")
    return original


def _read_stream(stream: Any, data: bytes, most: int) -> bytes:
    """Read a zlib, bz2 or lzma stream up to ``most`` bytes; they share this interface."""
    original: bytes = stream.decompress(data, most)
    if not stream.eof and len(original) < most:
        raise ValueError("it ends too early")
    return original


def _read_chunks(
    feed: Callable[[bytes], bytes], finished: Callable[[], bool], data: bytes, most: int
) -> bytes:
    """Read with a library that cannot bound its output, in pieces so small that none unfolds to much."""
    pieces, size = [], 0
    for start in range(0, len(data), 256):
        if finished() or size >= most:
            break
        pieces.append(feed(data[start : start + 256]))
        size += len(pieces[-1])
    if not finished() and size < most:
        raise ValueError("it ends too early")
    return b"".join(pieces)


def _library(name: str, remedy: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"The library {name!r} is not installed: {remedy}.") from error


def _zstd() -> Any:
    return _library("zstandard", "pip install 'celeriac[zstd]'")


def _compress_zstd(data: bytes) -> bytes:
    compressed: bytes = _zstd().ZstdCompressor().compress(data)
    return compressed


def _decompress_zstd(data: bytes, most: int) -> bytes:
    stream = _zstd().ZstdDecompressor().decompressobj()
    return _read_chunks(stream.decompress, lambda: bool(stream.eof), data, most)


def _brotli() -> Any:
    return _library("brotli", "pip install brotli")


def _compress_brotli(data: bytes) -> bytes:
    compressed: bytes = _brotli().compress(data)
    return compressed


def _decompress_brotli(data: bytes, most: int) -> bytes:
    stream = _brotli().Decompressor()
    if not hasattr(stream, "can_accept_more_data"):
        # Older ones cannot bound what one call unfolds.
        raise ImportError("Reading brotli needs its version 1.2 or newer: pip install -U brotli.")
    original = bytearray(stream.process(data, output_buffer_limit=most))
    while not stream.is_finished() and len(original) < most:
        more = stream.process(b"", output_buffer_limit=most - len(original))
        if not more:
            raise ValueError("it ends too early")
        original += more
    return bytes(original)


_GZIP = Method(
    "application/x-gzip", zlib.compress, lambda data, most: _read_stream(zlib.decompressobj(), data, most)
)
_BZIP2 = Method(
    "application/x-bz2", bz2.compress, lambda data, most: _read_stream(bz2.BZ2Decompressor(), data, most)
)
_LZMA = Method(
    "application/x-lzma", lzma.compress, lambda data, most: _read_stream(lzma.LZMADecompressor(), data, most)
)
_ZSTD = Method("application/zstd", _compress_zstd, _decompress_zstd)
_BROTLI = Method("application/x-brotli", _compress_brotli, _decompress_brotli)

_METHODS: Final = {
    "gzip": _GZIP,
    "zlib": _GZIP,
    "bzip2": _BZIP2,
    "bzip": _BZIP2,
    "lzma": _LZMA,
    "xz": _LZMA,
    "zstd": _ZSTD,
    "zstandard": _ZSTD,
    "brotli": _BROTLI,
    **{method.label: method for method in (_GZIP, _BZIP2, _LZMA, _ZSTD, _BROTLI)},
}
