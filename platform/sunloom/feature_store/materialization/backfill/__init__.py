"""A feature set over a range of time, chunk by chunk, and resumable after whatever ended it."""
