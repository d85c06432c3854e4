"""Names of columns that every table of the engine shares."""

EVENT_TIME = "event_time"
"""When a row holds, or as of when it is asked about: UTC, microseconds."""

NOW = "__now__"
"""As-of time of a query's rows inside the engine."""
