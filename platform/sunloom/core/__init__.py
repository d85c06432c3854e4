"""What every room stands on: cluster, artifacts, database, runs, telemetry, plugins."""
