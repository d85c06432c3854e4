"""Expressions: literals, functions, validations, and the lowering to Polars."""
