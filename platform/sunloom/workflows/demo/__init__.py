"""``sunloom demo``: every room once, on real parts, in one run."""
