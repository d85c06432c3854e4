"""The offline store: every version of a feature set's rows, as Parquet on any URI."""
