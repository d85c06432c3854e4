"""Opening of a definitions module: its import, what it defines, and plans of its feature sets.

The functions import chalkpy themselves: workers and the gateway import this module, and only those
that open definitions wait for it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from sunloom.config.features import FeaturesRecipe
from sunloom.core.plugins import plugin_names, plugin_value
from sunloom.core.telemetry import get_logger
from sunloom.errors import (
    DefinitionError,
    DependencyError,
    NotFoundError,
    UsageError,
    known_names_hint,
)
from sunloom.features.definitions.statements import (
    execute_module,
    failed_statements,
    is_inside,
    statement_imports,
)
from sunloom.features.plan.feature_sets import Catalogue, Plan

_log = get_logger("features.definitions")
GROUP = "sunloom.features"


def catalogue_of(definitions: str) -> Catalogue:
    """Every features class of a definitions module; what cannot be bound is listed beside them.

    Args:
        definitions: An entry point of ``sunloom.features``, an import path, or a ``.py`` file.

    Raises:
        UsageError: There is no such module.
        DefinitionError: The module cannot be imported, or defines no features class.
        DependencyError: chalkpy is not installed.
    """
    module = import_definitions(definitions)
    from sunloom.features.definitions.bind_classes import bind_catalogue

    classes, resolvers = defined_classes(module), defined_resolvers(module)
    return bind_catalogue(definitions, classes, resolvers, failed_statements(module))


def plan_of(definitions: str, feature_set: str, *, strict: bool = False) -> Plan:
    """The plan of one feature set, without what cannot be bound.

    Args:
        definitions: An entry point of ``sunloom.features``, an import path, or a ``.py`` file.
        feature_set: Namespace of a features class.
        strict: Refuse definitions of which anything cannot be bound.

    Raises:
        NotFoundError: No class has that namespace; lists the known ones.
        DefinitionError: Nothing of the class can be bound; if strict, something of the module.
    """
    return _select(catalogue_of(definitions), feature_set, strict)


def plan_of_recipe(recipe: FeaturesRecipe) -> Plan:
    """The plan of a recipe's feature set, strict if the recipe is."""
    return plan_of(recipe.definitions, recipe.feature_set, strict=recipe.execution.strict)


def outline_of(definitions: str, feature_set: str, *, strict: bool = False) -> Plan:
    """One feature set as a plan without expressions, for sets that Chalk's engine computes.

    Args:
        definitions: An entry point of ``sunloom.features``, an import path, or a ``.py`` file.
        feature_set: Namespace of a features class.
        strict: Refuse a class of which a feature's type has no column form here.

    Raises:
        NotFoundError: No class has that namespace; lists the known ones.
        DefinitionError: None of the class's features has a column form here; if strict, one.
        DependencyError: chalkpy is not installed.
    """
    module = import_definitions(definitions)
    from sunloom.features.definitions.declarations import outline_class
    from sunloom.features.definitions.failures import Failures

    classes = {item.namespace: item for item in defined_classes(module)}
    if feature_set not in classes:
        raise NotFoundError(
            f"There is no feature set {feature_set!r}.",
            known=classes,
            name=feature_set,
            param="feature_set",
        )
    failures = Failures()
    item = outline_class(classes[feature_set], failures)
    catalogue = Catalogue(classes=(item,), unavailable=failures.records)
    return _select(catalogue, feature_set, strict)


def _select(catalogue: Catalogue, feature_set: str, strict: bool) -> Plan:
    plan = catalogue.plan(feature_set)
    if strict:
        catalogue.check_complete()
    for item in plan.unavailable:
        _log.warning("%s is unavailable: %s", item.feature, item.why)
    return plan


def import_definitions(source: str) -> ModuleType:
    """Import definitions, as far as their statements can be executed.

    Args:
        source: An entry point of group ``sunloom.features``, a ``.py`` file, or an import path.

    Raises:
        UsageError: There is no entry point, file or module of that name.
        DefinitionError: The module cannot be imported at all.
        DependencyError: chalkpy is not installed.
    """
    # Every other module of this package imports chalkpy at its top.
    if find_spec("chalk") is None:
        raise DependencyError(
            "Feature definitions need chalkpy.", "pip install 'sunloom[features]'"
        )
    if source.endswith(".py"):
        return _import_file(Path(source))
    if source in plugin_names(GROUP):
        source = plugin_value(GROUP, source)
    return _import_module(source)


def defined_classes(module: ModuleType) -> list[Any]:
    """Features classes of the module, of its submodules, and those that their joins lead to."""
    from chalk.features import FeatureSetBase

    from sunloom.features.definitions.declarations import joined_classes

    registry = list(FeatureSetBase.registry.values())
    inside = [item for item in registry if is_inside(item.__module__, module)]
    # Classes that the module imports from another one are offered too.
    names = vars(module).values()
    imported = [item for item in registry if any(item is value for value in names)]
    waiting = [*inside, *(item for item in imported if item not in inside)]
    classes: list[Any] = []
    while waiting:
        item = waiting.pop(0)
        # Classes may join each other in a circle.
        if any(item is known for known in classes):
            continue
        classes.append(item)
        waiting.extend(joined_classes(item))
    if not classes:
        for failed in failed_statements(module):
            raise failed.error
        file = str(getattr(module, "__file__", None) or module.__name__)
        raise DefinitionError(
            f"{file} defines no features class.",
            "Decorate a class with `from chalk.features import features`.",
            file=file,
            reason="it defines no features class",
        )
    return classes


def defined_resolvers(module: ModuleType) -> list[Any]:
    """Every chalkpy resolver that the module and its submodules define, in source order."""
    from chalk.features.resolver import RESOLVER_REGISTRY, Resolver

    # chalkpy's registry omits a function silently if another module has one of the same name, so
    # the modules themselves are searched too.
    candidates = [
        value
        for name, submodule in list(sys.modules.items())
        if is_inside(name, module)
        for value in vars(submodule).values()
        if isinstance(value, Resolver)
    ]
    resolvers: list[Any] = []
    for raw in (*candidates, *RESOLVER_REGISTRY.get_all_resolvers()):
        if is_inside(str(raw.__module__), module) and not any(raw is known for known in resolvers):
            resolvers.append(raw)
    return sorted(resolvers, key=lambda raw: (raw.filename, raw.fn.__code__.co_firstlineno))


def _import_module(name: str) -> ModuleType:
    try:
        # Distinguishes a missing module from one whose own imports fail: both raise ImportError.
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UsageError(
            f"There is no definitions module {name!r}.",
            "Give an import path, a .py file, or an entry point of group sunloom.features. "
            + known_names_hint(name, plugin_names(GROUP)),
            "definitions",
        )
    try:
        with statement_imports(name):
            return importlib.import_module(name)
    except Exception as error:
        raise _import_error(name, error, str(spec.origin)) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"There is no definitions file {path}.", param="definitions")
    source = path.read_bytes()
    # The content is part of the name, so that an edited file is a new module.
    digest = hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:12]
    name = f"sunloom_definitions_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and chalkpy look up the module of the classes they decorate.
    sys.modules[name] = module
    try:
        # From the bytes that were named, not by the loader: its byte-code cache takes a file edited
        # within the same second, to the same size, for unchanged.
        execute_module(source, str(path.resolve()), module)
    except Exception as error:
        del sys.modules[name]
        raise _import_error(str(path), error, str(path.resolve())) from error
    return module


def _import_error(name: str, error: Exception, origin: str) -> DefinitionError:
    frames = traceback.extract_tb(error.__traceback__)
    # The deepest line of the definitions themselves rather than one inside chalkpy.
    inside = [frame for frame in frames if frame.filename == origin]
    file, line = origin, inside[-1].lineno if inside else None
    if isinstance(error, SyntaxError) and error.lineno:
        file, line = str(error.filename), error.lineno
    text = str(error).strip() or type(error).__name__
    reason = f"cannot be imported: {type(error).__name__}: {text}"
    return DefinitionError.of_construct(file, line, reason, name=name)
