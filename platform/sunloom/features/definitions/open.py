"""Opening of a definitions module: its catalogue, the plan of one feature set, or its outline.

The functions import chalkpy themselves: workers and the gateway import this module, and only those
that open definitions wait for it.
"""

from __future__ import annotations

from importlib.util import find_spec

from sunloom.errors import DependencyError
from sunloom.features.plan.feature_sets import Catalogue, Plan


def catalogue_of(definitions: str) -> Catalogue:
    """Every features class of a definitions module, bound.

    Args:
        definitions: An entry point of ``sunloom.features``, an import path, or a ``.py`` file.

    Raises:
        UsageError: There is no such module.
        DefinitionError: A construct cannot be bound; names feature, construct, file and line.
        DependencyError: chalkpy is not installed.
    """
    _check_chalkpy()
    from sunloom.features.definitions.bind_classes import load_catalogue

    return load_catalogue(definitions)


def plan_of(definitions: str, feature_set: str) -> Plan:
    """The plan of one feature set.

    Raises:
        NotFoundError: No class has that namespace; lists the known ones.
    """
    return catalogue_of(definitions).plan(feature_set)


def outline_of(definitions: str, feature_set: str) -> Plan:
    """Names and types of one feature set, whatever computes it.

    Raises:
        NotFoundError: No class has that namespace; lists the known ones.
    """
    _check_chalkpy()
    from sunloom.features.definitions.outline import load_outline

    return load_outline(definitions, feature_set)


def _check_chalkpy() -> None:
    # Every other module of definitions imports chalkpy at its top.
    if find_spec("chalk") is None:
        raise DependencyError(
            "Feature definitions need chalkpy.", "pip install 'sunloom[features]'"
        )
