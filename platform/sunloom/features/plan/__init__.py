"""The plan: what a feature set means, in our own frozen, hashable, JSON-serialisable classes.

Only this travels to workers.
"""
