"""Names of the key-value spaces beside the records: plans, streams, tiles, offsets, rules.

They are part of the stored data and must not change.
"""

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
