"""Asgi."""
