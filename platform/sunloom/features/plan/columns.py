"""Names of columns that every table of the engine shares."""

EVENT_TIME = "event_time"
"""Event time of a source row, as-of time of a spine's row: UTC, microseconds."""

NOW = "__now__"
"""As-of time of a query row inside the engine: no feature's name begins with an underscore."""
