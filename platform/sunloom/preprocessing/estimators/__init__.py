"""For each type of step: what it learns, and which operations that makes."""
