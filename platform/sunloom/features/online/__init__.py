"""Online reads: stored records, values derived at the moment of the read, windows over tiles."""

from sunloom.features.online.definitions import (
    definitions_of,
    open_reader,
    read_online,
    schema_of,
    store_plan,
    store_stream,
)
from sunloom.features.online.reader import OnlineReader

__all__ = [
    "OnlineReader",
    "definitions_of",
    "open_reader",
    "read_online",
    "schema_of",
    "store_plan",
    "store_stream",
]
