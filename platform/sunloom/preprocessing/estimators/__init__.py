"""Estimators: for each type of step what it collects, and which operations it builds."""
