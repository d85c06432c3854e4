"""Plain keys and values: writes, names of the spaces, and limits that hold in every store."""

from __future__ import annotations

from functools import lru_cache

from sunloom.errors import UsageError

Write = tuple[str, bytes, bytes | None]
"""Space, key and value; a value of None deletes, or means that there is none."""
RawWrite = tuple[bytes, bytes, bytes | None]
"""The same with the space's name as bytes."""

MAX_SPACE_BYTES = 128
# An LMDB key has at most 511 bytes, the space's name and separators included.
MAX_KEY_BYTES = 376

# Names of spaces are part of the stored data and must not change.
PLANS = "plan"
"""Feature set to its plan, JSON."""
STREAMS = "stream"
"""Feature set to its streamed classes, tile width, event policy and plan, JSON."""
VALIDATION = "validation"
"""Feature set to the rules that request rows are checked by, JSON."""
VALIDATION_REFERENCE = "validation_reference"
"""Feature set to the reference sample that request rows are compared with, Parquet."""

# The three below are prefixes: the fingerprint of the tile layout follows, so that a changed
# definition never reads tiles of another layout.
HEADS = "stream-head"
"""Entity key to its head: partial results of each tile, MessagePack."""
TILES = "stream-tile"
"""Entity key and tile number to the tile's events, MessagePack."""
OFFSETS = "stream-offset"
"""Topic partition to the progress of its consumer, JSON."""


@lru_cache(maxsize=256)
def check_space(space: str) -> bytes:
    """The space's name as bytes.

    Raises:
        UsageError: It is empty, too long, or contains a NUL.
    """
    # In a key NUL ends the space's name: a name with one could reach into another space.
    encoded = space.encode()
    if not 0 < len(encoded) <= MAX_SPACE_BYTES or b"\0" in encoded:
        raise UsageError(
            f"A space's name has 1 to {MAX_SPACE_BYTES} bytes and no NUL, not {space!r}.",
            param="space",
        )
    return encoded


def check_key(key: bytes) -> bytes:
    """The key itself.

    Raises:
        UsageError: It is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise UsageError(
            f"A key has 1 to {MAX_KEY_BYTES} bytes, not {len(key)}: {key[:40]!r}.", param="key"
        )
    return key


def to_raw_write(write: Write) -> RawWrite:
    """The write with its names checked.

    Raises:
        UsageError: A name is empty or too long, or the value is neither bytes nor None.
    """
    space, key, value = write
    if value is not None and not isinstance(value, bytes):
        raise UsageError(f"A value is bytes or None, not {type(value).__name__}.", param="value")
    return check_space(space), check_key(key), value
