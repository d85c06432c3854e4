"""The offline store: every version of a feature set's rows, as Parquet on any URI."""

from sunloom.features.store.offline.manifest import DataFile, Mode, Version
from sunloom.features.store.offline.table import OfflineStore, open_offline_store

__all__ = ["DataFile", "Mode", "OfflineStore", "Version", "open_offline_store"]
