"""Online reads: stored records, values derived at the moment of the read, windows over tiles."""

from sunloom.features.online.definitions import open_reader, store_plan
from sunloom.features.online.reader import OnlineReader

__all__ = ["OnlineReader", "open_reader", "store_plan"]
