"""Sources, validation and preparation of tables."""

from sunloom.data.datasets import DataSet, open_dataset
from sunloom.data.sources import read_table, require_columns

__all__ = ["DataSet", "open_dataset", "read_table", "require_columns"]
