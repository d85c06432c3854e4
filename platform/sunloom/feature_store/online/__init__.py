"""Online reads: stored records, features computed at read time, windows over tiles."""
