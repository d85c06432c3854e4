"""Reads chalkpy classes and binds them into a ``Catalogue``."""

from sunloom.features.definitions.binder import load_catalogue
from sunloom.features.definitions.loading import import_definitions

__all__ = ["import_definitions", "load_catalogue"]
