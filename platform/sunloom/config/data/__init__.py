"""Recipes and sections about tables: sources, cleaning, validation, drift."""
