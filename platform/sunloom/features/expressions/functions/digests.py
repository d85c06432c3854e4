"""Bytes: encodings and hashes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import Function, map_scalar, takes
from sunloom.features.plan.dtypes import DType


def _encoding(
    source: DType, result: DType, frame: Callable[[pl.Expr], pl.Expr], scalar: Callable[[Any], Any]
) -> Function:
    return Function(
        "bytes" if source == "bytes" else "a string",
        takes((source,), 1, result),
        lambda args, _: frame(args[0]),
        scalar,
    )


def _decoded(scalar: Callable[[str], bytes]) -> Function:
    """Text that is no such encoding is null."""

    def guarded(text: str) -> bytes | None:
        try:
            return scalar(text)
        except ValueError:
            return None

    return Function("a string", takes(("string",), 1, "bytes"), map_scalar(guarded), guarded)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _digest(name: str) -> Function:
    def digest(data: bytes) -> bytes:
        return hashlib.new(name, data, usedforsecurity=False).digest()

    accepts = 'bytes, such as F.string_to_bytes(_.x, "utf-8")'
    return Function(accepts, takes(("bytes",), 1, "bytes"), map_scalar(digest), digest)


DIGESTS: Mapping[str, Function] = {
    "string_to_bytes_utf8": _encoding(
        "string", "bytes", lambda x: x.cast(pl.Binary), lambda text: text.encode()
    ),
    "string_to_bytes_hex": _decoded(bytes.fromhex),
    "string_to_bytes_base64": _decoded(lambda text: base64.b64decode(text, validate=True)),
    "bytes_to_string_utf8": Function(
        "bytes", takes(("bytes",), 1, "string"), map_scalar(_text), _text
    ),
    "bytes_to_string_hex": _encoding(
        "bytes", "string", lambda x: x.bin.encode("hex"), lambda data: data.hex()
    ),
    "bytes_to_string_base64": _encoding(
        "bytes",
        "string",
        lambda x: x.bin.encode("base64"),
        lambda data: base64.b64encode(data).decode(),
    ),
    "md5": _digest("md5"),
    "sha1": _digest("sha1"),
    "sha256": _digest("sha256"),
    "sha512": _digest("sha512"),
}
