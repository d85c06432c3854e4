"""Sources, validation and preparation of tables."""
