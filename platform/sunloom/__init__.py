"""Sunloom: features, fine-tuning, agents and serving on Ray, behind one gateway."""

__version__ = "0.1.0"
