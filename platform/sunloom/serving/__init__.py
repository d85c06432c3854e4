"""Everything that talks HTTP: one guard, one gateway, the apps behind it."""
