"""Judged figures: intervals, report, a gate's decision, a model's verdicts and people's votes."""
