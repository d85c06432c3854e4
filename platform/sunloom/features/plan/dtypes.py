"""Types of the values in a plan: scalars by name, and lists and structs of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

ScalarType = Literal["int64", "float64", "bool", "string", "datetime", "duration", "bytes", "null"]


class Node(BaseModel):
    """Part of a plan: frozen, hashable, and JSON without loss.

    Field names and their order are stored data: a plan's fingerprint is a hash of its JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class ListType(Node):
    """A list of values of one type; its values may be null."""

    kind: Literal["list"] = "list"
    item: DType

    def __str__(self) -> str:
        return f"list[{self.item}]"


class StructField(Node):
    """A named value of a struct."""

    name: str
    dtype: DType


class StructType(Node):
    """Named values, each of its own type; any of them may be null."""

    kind: Literal["struct"] = "struct"
    fields: tuple[StructField, ...]

    def __str__(self) -> str:
        return f"struct[{', '.join(f'{field.name}: {field.dtype}' for field in self.fields)}]"

    def field(self, name: str) -> DType | None:
        """The type of the field of that name, or None where the struct has no such field."""
        return next((field.dtype for field in self.fields if field.name == name), None)


DType = ScalarType | ListType | StructType

# The types refer to each other: pydantic can resolve the names only now.
for _model in (ListType, StructField, StructType):
    _model.model_rebuild()
