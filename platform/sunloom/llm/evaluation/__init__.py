"""Judging language models."""

from sunloom.llm.evaluation.exact_match import ExactMatch, exact_match, parse_calls

__all__ = ["ExactMatch", "exact_match", "parse_calls"]
