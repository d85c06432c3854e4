"""Drift, quality and performance of features over time, and the alerts they raise.

Cheap to import; Evidently loads inside the report.
"""
