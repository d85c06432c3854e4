"""Benchmarks of language models: preparing, training and judging, against peers in the same run."""
