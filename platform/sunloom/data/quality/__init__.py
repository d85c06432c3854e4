"""Data quality: rules, checks, drift, reports, and the gate before a store."""
