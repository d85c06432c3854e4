"""Judging language models."""
