"""Algorithms behind one Protocol, in one visible table; plugins of ``sunloom.algorithms`` join."""
