"""Evaluates a plan on tables in memory: one process, Polars frames around NumPy kernels.

Every executor calls this: the one-node path on whole tables, the Ray path on each partition.
"""
