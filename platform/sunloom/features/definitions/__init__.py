"""Reads chalkpy classes and binds them into a ``Catalogue``."""
