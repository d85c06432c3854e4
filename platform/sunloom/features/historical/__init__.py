"""The same plan on a Ray cluster: rows are cut by key hash, and each part runs the one engine."""
