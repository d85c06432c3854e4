"""Tables as batches of rows: reading, splits for workers, Parquet output."""
