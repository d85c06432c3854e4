"""Algorithms of binary classification behind one protocol."""
