"""Judges of safety: refusals, leaks, followed injections, toxic answers."""
