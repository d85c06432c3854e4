"""Scalar functions: their types, their form over a frame, and their form on plain values."""
