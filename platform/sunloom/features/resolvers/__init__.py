"""Calls Python resolvers: many questions at once, failures counted, results in declared types.

A call that raises, times out, or gives what its feature cannot hold is a failure: the value is
null where the feature is nullable or has a default, else the whole computation is an error.
"""

from sunloom.features.resolvers.answers import Answers
from sunloom.features.resolvers.ask import ask
from sunloom.features.resolvers.resolve import resolve, resolve_rows

__all__ = ["Answers", "ask", "resolve", "resolve_rows"]
