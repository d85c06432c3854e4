"""Serving: one HTTP gateway, the apps behind it, and their deployment on Ray Serve."""
