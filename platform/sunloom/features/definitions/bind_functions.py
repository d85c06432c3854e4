"""Calls of functions, bound: names, literal maps, structs, types."""

from __future__ import annotations

from typing import Any

from chalk.features.underscore import UnderscoreFunction

from sunloom.errors import DefinitionError, known_names_hint
from sunloom.features.definitions.scope import Binder
from sunloom.features.expressions.functions.json_documents import JSON_VALUE
from sunloom.features.expressions.functions.structs import STRUCT_FIELD, pack_struct
from sunloom.features.expressions.functions.table import FUNCTION_ALIASES, FUNCTIONS
from sunloom.features.expressions.literals import constant
from sunloom.features.plan.expressions import Call, Const, Expr

_HAS_KEY = "map_key_exists"
_NO_RANDOM = "A feature has one value at a moment; draw random numbers elsewhere."
_INSTEAD_OF = {
    "//": "Write F.cast(F.floor(a / b), pa.int64()).",
    "^": "Write F.power(a, b).",
    "sort_order": "Compare one column.",
    "array_filter": "Filter where the list is made: `F.array_agg(_.many[_.x, _.x > 0])`.",
    "array_transform": "Compute the value where the list is made, in the joined class.",
    "rand": _NO_RANDOM,
    "random": _NO_RANDOM,
    "get_json_value_strict": "Write F.json_value.",
}


class FunctionBinder:
    """Binds one call of a function.

    Args:
        outer: Binds the expression that the call stands in.
        raw: The call.
    """

    def __init__(self, outer: Binder, raw: UnderscoreFunction) -> None:
        self._outer = outer
        self._raw = raw

    def bind(self) -> Expr:
        """The call as a plan expression."""
        given = self._raw._chalk__function_name
        name = FUNCTION_ALIASES.get(given, given)
        self._check_known(name)
        if name == "struct_pack":
            names, *values = self._raw._chalk__args
            return pack_struct(names, [self._outer.bind(value) for value in values])
        if name in ("map_get", _HAS_KEY):
            return self._literal_map(name, *self._raw._chalk__args)
        args = tuple(self._outer.bind(arg) for arg in self._raw._chalk__args)
        self._check_json_is_cast(args)
        return self._call(name, args)

    def _refuse(self, construct: str, instead: str) -> DefinitionError:
        return self._outer.scope.refuse(construct, instead, self._raw)

    def _check_known(self, name: str) -> None:
        known = FUNCTIONS.keys() - {STRUCT_FIELD} | {_HAS_KEY}
        kwargs = list(self._raw._chalk__kwargs)
        if name in known and not kwargs:
            return
        shown = f"{name} with {kwargs}" if kwargs else name
        raise self._refuse(
            f"function {shown!r} is not supported",
            _INSTEAD_OF.get(name) or known_names_hint(name, known),
        )

    def _check_json_is_cast(self, args: tuple[Expr, ...]) -> None:
        if any(isinstance(arg, Call) and arg.function == JSON_VALUE for arg in args):
            raise self._refuse(
                f"`{self._raw}` takes a JSON value without a type",
                'Cast it: F.cast(F.json_value(_.x, "$.a"), pa.float64()).',
            )

    def _call(self, name: str, args: tuple[Expr, ...]) -> Call:
        function = FUNCTIONS[name]
        dtype = function.result([arg.dtype for arg in args])
        if dtype is None:
            found = ", ".join(str(arg.dtype) for arg in args)
            raise self._refuse(
                f"function {name!r} takes {function.accepts}, not ({found})",
                "Cast the arguments with F.cast.",
            )
        instead = function.check(args) if function.check is not None else None
        if instead is not None:
            raise self._refuse(f"the arguments of `{self._raw}` are not supported", instead)
        return Call(function=name, args=args, dtype=dtype)

    def _literal_map(self, name: str, mapping: Any, key: Any) -> Expr:
        keys, values = self._items(mapping)
        bound = self._outer.bind(key)
        if name == _HAS_KEY:
            return self._call("contains", (keys, bound))
        return self._call(name, (keys, values, bound))

    def _items(self, mapping: Any) -> tuple[Const, Const]:
        pairs = mapping.as_py() if hasattr(mapping, "as_py") else None
        keys = constant([key for key, _ in pairs]) if pairs else None
        values = constant([value for _, value in pairs]) if pairs else None
        if keys is None or values is None:
            raise self._refuse(
                f"`{self._raw}` looks up in something that is no literal map",
                "Write a dictionary of plain values.",
            )
        return keys, values
