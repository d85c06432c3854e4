"""Tables: sources, data sets, their preparation, quality checks, quarantine."""
