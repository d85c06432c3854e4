"""Serve applications for Ray Serve's own configuration files."""
