"""Tables from files, with errors that say what was found instead; ``fetching`` asks databases."""

from sunloom.data.sources.files import (
    READERS,
    Damaged,
    Table,
    data_files,
    read_table,
    require_columns,
)

__all__ = ["READERS", "Damaged", "Table", "data_files", "read_table", "require_columns"]
