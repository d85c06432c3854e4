"""The app at ``/``: health, docs over all apps, registry, keys, training, monitoring."""
