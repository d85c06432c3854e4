"""Materialization."""
