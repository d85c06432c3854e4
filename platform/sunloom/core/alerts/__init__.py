"""Alerts: raised once while open, resolved, and delivered to every sink."""
