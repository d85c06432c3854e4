"""Metrics of served requests and features, gathered from all replicas."""
