"""Types of values in a plan: scalars by name, lists and structs of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

ScalarType = Literal["int64", "float64", "bool", "string", "datetime", "duration", "bytes", "null"]


class Node(BaseModel):
    """Part of a plan: frozen, hashable, and JSON without loss."""

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
    """Named values of their own types; any of them may be null."""

    kind: Literal["struct"] = "struct"
    fields: tuple[StructField, ...]

    def __str__(self) -> str:
        return f"struct[{', '.join(f'{field.name}: {field.dtype}' for field in self.fields)}]"

    def field(self, name: str) -> DType | None:
        """The type of the field of that name, or None where there is none."""
        return next((field.dtype for field in self.fields if field.name == name), None)


DType = ScalarType | ListType | StructType

for _model in (ListType, StructField, StructType):
    _model.model_rebuild()
