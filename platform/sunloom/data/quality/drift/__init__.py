"""Drift between two samples: statistics, their binning, comparison of tables."""
