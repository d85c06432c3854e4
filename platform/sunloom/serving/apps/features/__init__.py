"""The app at ``/features``: online features, ingestion, validation and transformation."""
