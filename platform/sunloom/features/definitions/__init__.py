"""Definitions: chalkpy classes and resolvers, read and bound into a ``Catalogue``."""
