"""Binding of calls of functions: their names, types, literal maps and structs."""

from __future__ import annotations

from typing import Any

from chalk.features.underscore import UnderscoreFunction

from sunloom.errors import DefinitionError, known_names_hint
from sunloom.features.definitions.scope import Binder
from sunloom.features.expressions.functions.json_documents import JSON_VALUE
from sunloom.features.expressions.functions.nested import STRUCT_FIELD, pack_struct
from sunloom.features.expressions.functions.table import FUNCTION_ALIASES, FUNCTIONS
from sunloom.features.expressions.literals import constant
from sunloom.features.plan.expressions import Call, Expr

_HAS_KEY = "map_key_exists"
_NO_RANDOM = "A feature has one value as of a time; draw random numbers elsewhere."
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
"""What to write instead of functions that have no counterpart under another name."""


class FunctionBinder:
    """Binds one call of a function.

    Args:
        outer: Binds the expression around the call.
        raw: The call.
    """

    def __init__(self, outer: Binder, raw: UnderscoreFunction) -> None:
        self._outer = outer
        self._raw = raw

    def bind(self) -> Expr:
        """The call as a plan expression."""
        chalk_name = self._raw._chalk__function_name
        name = FUNCTION_ALIASES.get(chalk_name, chalk_name)
        self._check_name(name)
        # Structs and maps have arguments that are no expressions: names, and a dictionary.
        if name == "struct_pack":
            names, *values = self._raw._chalk__args
            return pack_struct(names, [self._outer.bind(value) for value in values])
        if name in ("map_get", _HAS_KEY):
            return self._bind_map(name, *self._raw._chalk__args)
        args = tuple(self._outer.bind(arg) for arg in self._raw._chalk__args)
        if any(isinstance(arg, Call) and arg.function == JSON_VALUE for arg in args):
            raise self._refuse(
                f"`{self._raw}` takes a JSON value without a type",
                'Cast it: F.cast(F.json_value(_.x, "$.a"), pa.float64()).',
            )
        return self._call(name, args)

    def _refuse(self, construct: str, instead: str) -> DefinitionError:
        return self._outer.scope.refuse(construct, instead, self._raw)

    def _check_name(self, name: str) -> None:
        # Fields are written `_.struct.field`; the function behind them is ours.
        known = FUNCTIONS.keys() - {STRUCT_FIELD} | {_HAS_KEY}
        kwargs = list(self._raw._chalk__kwargs)
        if name in known and not kwargs:
            return
        text = f"{name} with {kwargs}" if kwargs else name
        raise self._refuse(
            f"function {text!r} is not supported",
            _INSTEAD_OF.get(name) or known_names_hint(name, known),
        )

    def _call(self, name: str, args: tuple[Expr, ...]) -> Call:
        function = FUNCTIONS[name]
        dtype = function.result([arg.dtype for arg in args])
        if dtype is None:
            types = ", ".join(str(arg.dtype) for arg in args)
            raise self._refuse(
                f"function {name!r} takes {function.accepts}, not ({types})",
                "Cast the arguments with F.cast.",
            )
        instead = function.check(args) if function.check is not None else None
        if instead is not None:
            raise self._refuse(f"the arguments of `{self._raw}` are not supported", instead)
        return Call(function=name, args=args, dtype=dtype)

    def _bind_map(self, name: str, mapping: Any, key: Any) -> Expr:
        # chalkpy keeps a dictionary as a PyArrow map scalar.
        pairs = mapping.as_py() if hasattr(mapping, "as_py") else None
        keys = constant([key for key, _ in pairs]) if pairs else None
        values = constant([value for _, value in pairs]) if pairs else None
        if keys is None or values is None:
            raise self._refuse(
                f"`{self._raw}` looks up in something that is no literal map",
                "Write a dictionary of plain values.",
            )
        if name == _HAS_KEY:
            return self._call("contains", (keys, self._outer.bind(key)))
        return self._call(name, (keys, values, self._outer.bind(key)))
