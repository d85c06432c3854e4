"""Types of the values in a plan: scalars by name, and lists and structs of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

PLAIN_FIELD_NAME = re.compile(r"[A-Za-z_]\w*")
"""A field name that the text of a struct type holds as it is."""
# Text rather than an enumeration: a type is its own JSON, and its own name in messages.
ScalarType = Literal[
    "int64", "float64", "bool", "string", "datetime", "date", "duration", "bytes", "null"
]


def list_text(item: str) -> str:
    """The text of a list type, given that of its items."""
    return f"list[{item}]"


def struct_text(fields: Mapping[str, str]) -> str:
    """The text of a struct type, given that of each field."""
    # JSON's quotes keep any other name apart from the punctuation around it.
    parts = [
        f"{name if PLAIN_FIELD_NAME.fullmatch(name) else json.dumps(name)}: {text}"
        for name, text in fields.items()
    ]
    return f"struct[{', '.join(parts)}]"


class Node(BaseModel):
    """Part of a plan: frozen, hashable, and JSON without loss.

    Field names and their order are stored data: a plan's fingerprint is a hash of its JSON.
    """

    # Unknown fields are refused: a later release's plan must not be read in part.
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListType(Node):
    """A list of values of one type; its values may be null."""

    kind: Literal["list"] = "list"
    item: DType

    def __str__(self) -> str:
        return list_text(str(self.item))


class StructField(Node):
    """A named value of a struct."""

    name: str
    dtype: DType


class StructType(Node):
    """Named values, each of its own type; any of them may be null."""

    kind: Literal["struct"] = "struct"
    fields: tuple[StructField, ...]

    def __str__(self) -> str:
        return struct_text({field.name: str(field.dtype) for field in self.fields})

    def field(self, name: str) -> DType | None:
        """The type of the field of that name, or None where the struct has no such field."""
        return next((field.dtype for field in self.fields if field.name == name), None)


DType = ScalarType | ListType | StructType

# The types refer to each other: pydantic can resolve the names only now.
for _model in (ListType, StructField, StructType):
    _model.model_rebuild()
