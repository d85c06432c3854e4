"""Event streams: consumers that merge events into tiles, exactly once."""
