"""Prepare columns: fit a recipe once, give the same numbers in batch and at serving."""
