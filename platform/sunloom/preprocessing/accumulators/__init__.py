"""Accumulators: what fitting learns from a column, in parts that merge."""
