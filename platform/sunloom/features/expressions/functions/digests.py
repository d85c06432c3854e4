"""Functions of bytes: encodings and hashes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from sunloom.features.expressions.functions.signature import Function, python_function, takes
from sunloom.features.plan.dtypes import DType


def _encode(
    source: DType, result: DType, frame: Callable[[pl.Expr], pl.Expr], scalar: Callable[[Any], Any]
) -> Function:
    return Function(
        "bytes" if source == "bytes" else "a string",
        takes((source,), 1, result),
        lambda args, _: frame(args[0]),
        scalar,
    )


def _decode(decode: Callable[[str], bytes]) -> Function:
    """Text that is not in the encoding gives null."""

    # One malformed text must not fail the whole column.
    def decode_or_null(text: str) -> bytes | None:
        try:
            return decode(text)
        except ValueError:
            return None

    return python_function("a string", takes(("string",), 1, "bytes"), decode_or_null)


def _digest(name: str) -> Function:
    # Not for security: with that flag md5 works on hosts in FIPS mode too.
    def digest(data: bytes) -> bytes:
        return hashlib.new(name, data, usedforsecurity=False).digest()

    accepts = 'bytes, such as F.string_to_bytes(_.x, "utf-8")'
    return python_function(accepts, takes(("bytes",), 1, "bytes"), digest)


DIGESTS: Mapping[str, Function] = {
    "string_to_bytes_utf8": _encode(
        "string", "bytes", lambda x: x.cast(pl.Binary), lambda text: text.encode()
    ),
    "string_to_bytes_hex": _decode(bytes.fromhex),
    "string_to_bytes_base64": _decode(lambda text: base64.b64decode(text, validate=True)),
    # Invalid UTF-8 becomes the replacement character, as in Chalk; a cast in Polars refuses it.
    "bytes_to_string_utf8": python_function(
        "bytes",
        takes(("bytes",), 1, "string"),
        lambda data: data.decode("utf-8", errors="replace"),
    ),
    "bytes_to_string_hex": _encode(
        "bytes", "string", lambda x: x.bin.encode("hex"), lambda data: data.hex()
    ),
    "bytes_to_string_base64": _encode(
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
