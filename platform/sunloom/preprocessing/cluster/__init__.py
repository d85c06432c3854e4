"""Fit and transformation on a Ray cluster."""
