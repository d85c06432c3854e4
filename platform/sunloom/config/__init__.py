"""Typed, layered configuration."""

from sunloom.config.loading.load import Loaded, load_config
from sunloom.config.loading.model import Model, save_resolved
from sunloom.config.settings import Settings

__all__ = ["Loaded", "Model", "Settings", "load_config", "save_resolved"]
