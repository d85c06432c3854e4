"""Online reads: stored records, values derived at the moment of the read, windows over tiles."""
