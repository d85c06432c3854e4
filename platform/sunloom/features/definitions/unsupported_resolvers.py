"""Resolvers that are not supported, and what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sunloom.errors import DefinitionError

_AS_SOURCE = "Give its rows as a source: `--source NAME=PATH`, or `feature_store` in the recipe."


def refuse_resolver(raw: Any, construct: str, instead: str) -> DefinitionError:
    """The error of a resolver that cannot be bound.

    Args:
        raw: The chalkpy resolver.
        construct: What is not supported.
        instead: What to write instead.
    """
    code = raw.fn.__code__
    return DefinitionError(
        f"{code.co_filename}:{code.co_firstlineno}: resolver {raw.fn.__name__!r}: {construct}.",
        instead,
        raw.fqn,
    )


def check_supported(raw: Any) -> None:
    """Refuse resolvers that are not plain functions of features.

    Raises:
        DefinitionError: Names function, file, line, and what to write instead.
    """
    kind = type(raw).__name__
    if kind == "StreamResolver":
        raise refuse_resolver(
            raw,
            "stream resolvers are not run",
            "Name the topic under `feature_store.streaming_source` in the recipe.",
        )
    if kind not in ("OnlineResolver", "OfflineResolver"):
        raise refuse_resolver(raw, f"a {kind} is not run", "Write @online or @offline.")
    if raw.is_sql_file_resolver or raw.data_sources:
        raise refuse_resolver(raw, "SQL resolvers are not run", _AS_SOURCE)
    _check_annotations(raw)
    for name, (construct, instead) in _SETTINGS.items():
        if getattr(raw, name, None):
            raise refuse_resolver(raw, construct(getattr(raw, name)), instead)
    # A generator's body runs only when it is iterated: a call would succeed and give no value.
    if inspect.isgeneratorfunction(raw.fn) or inspect.isasyncgenfunction(raw.fn):
        raise refuse_resolver(
            raw, "it yields", "Return the value, or one DataFrame of all rows, at once."
        )
    if not raw.inputs:
        raise refuse_resolver(raw, "it has no inputs: it gives whole tables", _AS_SOURCE)


def _check_annotations(raw: Any) -> None:
    try:
        # chalkpy reads the annotations only when these are first used.
        _, output = raw.inputs, raw.output
    except (TypeError, ValueError, NameError, AttributeError, AssertionError) as error:
        reason = str(error).strip() or type(error).__name__
        raise refuse_resolver(
            raw,
            f"its annotations cannot be read: {reason.rstrip('.')}",
            "Annotate inputs and output with features: `def f(x: User.x) -> User.y`.",
        ) from error
    assert output is not None


# Settings that chalkpy accepts, and that would be ignored here.
_SETTINGS: Mapping[str, tuple[Callable[[Any], str], str]] = {
    "static": (
        lambda _: "static resolvers build plans of Chalk's own engine",
        "Leave out `static=True`, or write an expression.",
    ),
    "cron": (
        lambda cron: f"cron={cron!r} would run it apart from the rows that need it",
        "Leave it out: it runs as of each row's time. Schedule `sunloom features materialize`.",
    ),
    "environment": (
        lambda names: f"environment={names!r} has no meaning here",
        "Leave it out, or import the module for that environment alone.",
    ),
    "tags": (
        lambda tags: f"tags={tags!r} would choose it by request, which has no meaning here",
        "Leave them out.",
    ),
    "venv": (lambda venv: f"venv={venv!r} is not made", "Install its packages on the workers."),
    "postprocessing": (lambda _: "postprocessing is not run", "Do it in the function."),
    "incremental_settings": (lambda _: "incremental resolvers are not run", _AS_SOURCE),
    "handle_duplicate_outputs": (
        lambda value: f"handle_duplicate_outputs={value!r} has no meaning here",
        "Give each key once: a key given twice is an error.",
    ),
}
