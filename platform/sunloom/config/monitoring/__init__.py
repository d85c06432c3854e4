"""Recipes of monitoring: drift between two periods, and watched tables."""
