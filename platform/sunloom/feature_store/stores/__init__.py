"""Stores: the latest values online, tables offline."""
