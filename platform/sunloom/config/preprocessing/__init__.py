"""Configuration of preprocessing: steps of ``transformations``, and graphs."""
