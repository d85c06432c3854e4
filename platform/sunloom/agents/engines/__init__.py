"""Engines: the libraries that run the loop of model and tools."""
