"""Online store in a dict: plain keys and values only, which is all that tiles need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class MemoryStore:
    """Spaces of an online store without a file."""

    def __init__(self) -> None:
        self.spaces: dict[str, dict[bytes, bytes]] = {}

    def get_many(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        values = self.spaces.get(space, {})
        return [values.get(key) for key in keys]

    def apply(
        self,
        writes: Sequence[tuple[str, bytes, bytes | None]],
        expected: Sequence[tuple[str, bytes, bytes | None]] = (),
    ) -> bool:
        if any(self.get_many(space, [key]) != [value] for space, key, value in expected):
            return False
        for space, key, value in writes:
            if value is None:
                self.spaces.get(space, {}).pop(key, None)
            else:
                self.spaces.setdefault(space, {})[key] = value
        return True

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(self.spaces.get(space, {}).items())

    def feature_sets(self) -> list[str]:
        return []
