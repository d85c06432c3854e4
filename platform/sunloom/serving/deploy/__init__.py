"""Deployment of the apps on Ray Serve behind HAProxy."""
