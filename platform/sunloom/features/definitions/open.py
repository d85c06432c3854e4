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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from sunloom.core.plugins import plugin_names, plugin_value
from sunloom.core.telemetry import get_logger
from sunloom.errors import (
    DefinitionError,
    DependencyError,
    NotFoundError,
    UsageError,
    known_names_hint,
)
from sunloom.features.plan.feature_sets import Catalogue, Plan

_log = get_logger("features.definitions")
GROUP = "sunloom.features"


@dataclass(frozen=True)
class Definitions:
    """Imported definitions.

    Attributes:
        source: As the user named them.
        modules: The module, or every file's of a folder.
        errors: Why files of a folder could not be imported.
    """

    source: str
    modules: tuple[ModuleType, ...]
    errors: tuple[DefinitionError, ...] = ()

    def contains(self, name: str) -> bool:
        """Whether a module name is one of the modules' or of their submodules'."""
        return any(
            name == module.__name__ or name.startswith(module.__name__ + ".")
            for module in self.modules
        )


def catalogue_of(definitions: str) -> Catalogue:
    """Every features class of the definitions; what cannot be bound is listed beside them.

    Args:
        definitions: An entry point of ``sunloom.features``, an import path, a ``.py`` file, or a
            folder of them.

    Raises:
        UsageError: There is no such module.
        DefinitionError: The module cannot be imported, or defines no features class.
        DependencyError: chalkpy is not installed.
    """
    imported = import_definitions(definitions)
    from sunloom.features.definitions.bind_classes import bind_catalogue

    classes, resolvers = defined_classes(imported), defined_resolvers(imported)
    return bind_catalogue(definitions, classes, resolvers, imported.errors)


def plan_of(definitions: str, feature_set: str) -> Plan:
    """The plan of one feature set, without what cannot be bound.

    Raises:
        NotFoundError: No class has that namespace; lists the known ones.
        DefinitionError: Nothing of the class can be bound.
    """
    plan = catalogue_of(definitions).plan(feature_set)
    _warn_of_unavailable(plan)
    return plan


def outline_of(definitions: str, feature_set: str) -> Plan:
    """One feature set as a plan without expressions, for sets that Chalk's engine computes.

    Args:
        definitions: An entry point of ``sunloom.features``, an import path, a ``.py`` file, or a
            folder of them.
        feature_set: Namespace of a features class.

    Raises:
        NotFoundError: No class has that namespace; lists the known ones.
        DefinitionError: None of the class's features has a column form here.
        DependencyError: chalkpy is not installed.
    """
    imported = import_definitions(definitions)
    from sunloom.features.definitions.declarations import outline_class
    from sunloom.features.definitions.failures import Failures

    classes = {item.namespace: item for item in defined_classes(imported)}
    if feature_set not in classes:
        raise NotFoundError(
            f"There is no feature set {feature_set!r}.",
            known=classes,
            name=feature_set,
            param="feature_set",
        )
    failures = Failures()
    item = outline_class(classes[feature_set], failures)
    plan = Catalogue(classes=(item,), unavailable=failures.records).plan(feature_set)
    _warn_of_unavailable(plan)
    return plan


def _warn_of_unavailable(plan: Plan) -> None:
    for item in plan.unavailable:
        _log.warning("%s is unavailable: %s", item.feature, item.why)


def import_definitions(source: str) -> Definitions:
    """Import definitions.

    Args:
        source: An entry point of group ``sunloom.features``, a ``.py`` file, a folder of them, or
            an import path.

    Raises:
        UsageError: There is no entry point, file or module of that name.
        DefinitionError: The module cannot be imported, or chalkpy refuses a class in it.
        DependencyError: chalkpy is not installed.
    """
    # Every other module of this package imports chalkpy at its top.
    if find_spec("chalk") is None:
        raise DependencyError(
            "Feature definitions need chalkpy.", "pip install 'sunloom[features]'"
        )
    with _unknown_functions():
        if source.endswith(".py"):
            return Definitions(source, (_import_file(Path(source)),))
        if source in plugin_names(GROUP):
            return Definitions(source, (_import_module(plugin_value(GROUP, source)),))
        if Path(source).is_dir() and not _is_importable(source):
            return _import_folder(source)
        return Definitions(source, (_import_module(source),))


@contextmanager
def _unknown_functions() -> Iterator[None]:
    """Let definitions call functions that this release of chalkpy does not have.

    The binder refuses the features that call one; else the whole module could not be imported.
    """
    from chalk import functions
    from chalk.features.underscore import UnderscoreFunction

    def get_unknown(name: str) -> Callable[..., Any]:
        if name.startswith("_") or find_spec(f"{functions.__name__}.{name}") is not None:
            raise AttributeError(f"module {functions.__name__!r} has no attribute {name!r}")
        return partial(UnderscoreFunction, name)

    # Python looks up a module's missing names here.
    functions.__dict__["__getattr__"] = get_unknown
    try:
        yield
    finally:
        functions.__dict__.pop("__getattr__", None)


def defined_classes(definitions: Definitions) -> list[Any]:
    """Features classes of the modules, of submodules, and those that their joins lead to."""
    from chalk.features import FeatureSetBase

    from sunloom.features.definitions.declarations import joined_classes

    registry = list(FeatureSetBase.registry.values())
    inside = [item for item in registry if definitions.contains(item.__module__)]
    # Classes that a module imports from another one are offered too.
    names = [value for module in definitions.modules for value in vars(module).values()]
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
        if definitions.errors:
            raise definitions.errors[0]
        first = definitions.modules[0]
        is_folder = len(definitions.modules) > 1
        file = definitions.source if is_folder else str(getattr(first, "__file__", first.__name__))
        raise DefinitionError(
            f"{file}: {definitions.source} defines no features class.",
            "Decorate a class with `from chalk.features import features`.",
            file=file,
            reason="it defines no features class",
        )
    return classes


def defined_resolvers(definitions: Definitions) -> list[Any]:
    """Every chalkpy resolver that the modules and their submodules define, in source order."""
    from chalk.features.resolver import RESOLVER_REGISTRY, Resolver

    # chalkpy's registry omits a function silently if another module has one of the same name, so
    # the modules themselves are searched too.
    candidates = [
        value
        for name, submodule in list(sys.modules.items())
        if definitions.contains(name)
        for value in vars(submodule).values()
        if isinstance(value, Resolver)
    ]
    resolvers: list[Any] = []
    for raw in (*candidates, *RESOLVER_REGISTRY.get_all_resolvers()):
        is_inside = definitions.contains(str(raw.__module__))
        if is_inside and not any(raw is known for known in resolvers):
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
        # Compiled from the bytes that were named, not by the loader: its byte-code cache takes a
        # file edited within the same second, to the same size, for unchanged.
        code = compile(source, str(path.resolve()), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise _import_error(str(path), error, str(path.resolve())) from error
    return module


def _is_importable(name: str) -> bool:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    # A folder without __init__.py is importable from its parent, with nothing of its files.
    return spec is not None and spec.origin is not None


def _import_folder(source: str) -> Definitions:
    """Every Python file of a folder, by the names under which they import each other."""
    folder = Path(source).resolve()
    root = folder
    while (root / "__init__.py").is_file():
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    modules: list[ModuleType] = []
    errors: list[DefinitionError] = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if any(part.startswith(".") for part in parts) or "site-packages" in parts:
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            known = sys.modules.get(name)
            is_other = known is not None and str(getattr(known, "__file__", "")) != str(file)
            # Another module has the name already, the standard library's for one.
            is_plain = name.replace(".", "_").isidentifier() and not is_other
            modules.append(_import_module(name) if is_plain else _import_file(file))
        except DefinitionError as error:
            errors.append(error)
        except UsageError as error:
            errors.append(DefinitionError(error.message, error.hint, str(file), file=str(file)))
    if not modules and errors:
        raise errors[0]
    if not modules:
        raise UsageError(f"The folder {source} holds no .py file.", param="definitions")
    return Definitions(source, tuple(modules), tuple(errors))


def _import_error(name: str, error: Exception, origin: str) -> DefinitionError:
    frames = traceback.extract_tb(error.__traceback__)
    # The deepest line of the definitions themselves rather than one inside chalkpy.
    inside = [frame for frame in frames if frame.filename == origin]
    file, line = origin, inside[-1].lineno if inside else None
    if isinstance(error, SyntaxError) and error.lineno:
        file, line = str(error.filename), error.lineno
    text = str(error).strip() or type(error).__name__
    reason = f"{name} cannot be imported: {type(error).__name__}: {text}"
    where = file if line is None else f"{file}:{line}"
    return DefinitionError(
        f"{where}: {reason}", "", name, file=file, line=line, reason=reason.rstrip(".")
    )
