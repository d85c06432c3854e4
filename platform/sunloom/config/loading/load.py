"""Loader of layered configuration.

Precedence, low to high: model defaults, ``conf/base.yaml``, ``conf/env/<env>.yaml``, the recipe
file, ``SUNLOOM__A__B`` variables that are not empty, ``--set a.b=c``. Every value knows the layer
it came from.
In YAML, ``${NAME}`` reads the environment and ``${file:PATH}`` a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from sunloom.config.loading.model import Model
from sunloom.config.loading.problems import describe_problems
from sunloom.errors import ConfigError, UsageError

ENV_PREFIX = "SUNLOOM__"
ENVIRONMENTS = ("development", "test", "staging", "production")
_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")

T = TypeVar("T", bound=Model)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A configuration with the origin of each of its values.

    Attributes:
        config: The validated configuration.
        origins: Dotted key to the layer that set it; keys left at their default are absent.
        recipe: The recipe file, when one was given.
    """

    config: T
    origins: Mapping[str, str]
    recipe: Path | None = None

    def origin(self, key: str) -> str:
        """The layer that set ``key``, or ``default``."""
        parts = key.split(".")
        # Upwards: a validator may have made a section of one value (`amount: float64`).
        for length in range(len(parts), 0, -1):
            if (origin := self.origins.get(".".join(parts[:length]))) is not None:
                return origin
        return "default"


def load_config(
    kind: type[T],
    *,
    recipe: Path | None = None,
    env: str | None = None,
    sets: Sequence[str] = (),
    conf_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded[T]:
    """Load and validate a configuration through all its layers.

    Args:
        kind: The configuration class; a recipe class extends ``Settings``.
        recipe: A recipe file whose keys lie over the environment's.
        env: One of development, test, staging, production; else ``SUNLOOM_ENV``, else what
            ``base.yaml`` says.
        sets: ``a.b=c`` assignments, the last word.
        conf_dir: The ``conf/`` folder; else ``SUNLOOM_CONF``, else the nearest one above the
            working directory, else defaults only.
        environ: The environment; the process's own by default.

    Raises:
        ConfigError: A file, key or value cannot be used; lists every problem at once.
        UsageError: A named file does not exist.
    """
    environ = os.environ if environ is None else environ
    layers = Layers()
    folder = conf_dir or find_conf_dir(environ)
    if folder:
        _add_file(layers, folder / "base.yaml", environ)
    # base.yaml comes before the choice of the environment: it may name one.
    environment = _choose_environment(env, environ, layers)
    if folder:
        _add_file(layers, folder / "env" / f"{environment}.yaml", environ)
    if recipe is not None:
        _require_recipe(recipe)
        _add_file(layers, recipe, environ)
    _add_variables(layers, kind, environ)
    for assignment in sets:
        key, sign, value = assignment.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"--set {assignment!r} is not of the form a.b=c.", param="set")
        layers.set(key.strip().split("."), _parse_scalar(value), f"--set {key.strip()}")
    if "environment" in kind.model_fields:
        # A recipe may not choose it: its files were chosen by it.
        layers.tree["environment"] = environment
    try:
        config = kind.model_validate(layers.tree)
    except ValidationError as error:
        where = _display_path(recipe) if recipe is not None else "configuration"
        raise ConfigError(describe_problems(error, kind, layers.origins, where)) from None
    return Loaded(config, layers.origins, recipe)


def find_conf_dir(environ: Mapping[str, str]) -> Path | None:
    """The ``conf/`` folder: ``SUNLOOM_CONF``, or the nearest one above the working directory."""
    if named := environ.get("SUNLOOM_CONF"):
        path = Path(named)
        if not path.is_dir():
            raise UsageError(f"SUNLOOM_CONF names {named!r}, which is not a folder.")
        return path
    cwd = Path.cwd()
    for folder in (cwd, *cwd.parents):
        if (folder / "conf" / "base.yaml").is_file():
            return folder / "conf"
    return None


def _require_recipe(path: Path) -> None:
    if path.is_file():
        return
    siblings = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    hint = f"Found there: {', '.join(siblings)}" if siblings else "The folder has no recipes."
    raise UsageError(f"There is no recipe file {path}.", hint, "config")


def _add_file(layers: Layers, path: Path, environ: Mapping[str, str]) -> None:
    """Add a YAML file as a layer; one that does not exist or is empty adds nothing."""
    if not path.is_file():
        return
    source = _display_path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if data is None:
        return
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must hold a mapping, not {type(data).__name__}.")
    layers.add(resolve_references(data, environ, source), source)


def _choose_environment(env: str | None, environ: Mapping[str, str], base: Layers) -> str:
    name = env or environ.get("SUNLOOM_ENV") or base.tree.get("environment") or "development"
    if name not in ENVIRONMENTS:
        raise ConfigError(
            f"There is no environment {name!r}.", f"Known: {', '.join(ENVIRONMENTS)}", "env"
        )
    return str(name)


def _add_variables(layers: Layers, kind: type[Model], environ: Mapping[str, str]) -> None:
    # Sorted: `SUNLOOM__A` must be merged before `SUNLOOM__A__B`, whatever the shell's order.
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        # As if it were not set: an environment can empty an inherited variable, not remove it.
        if not environ[name]:
            continue
        path = [part.lower() for part in name.removeprefix(ENV_PREFIX).split("__")]
        # A variable may be meant for another recipe of the same shell session.
        if path[0] not in kind.model_fields and path[0] in kind.keys_of_all_kinds():
            continue
        layers.set(path, _parse_scalar(environ[name]), f"environment variable {name}")


def _parse_scalar(text: str) -> Any:
    try:
        # As in a file: numbers, true and false, and lists are no text.
        return yaml.safe_load(text)
    except yaml.YAMLError:
        # A password may begin with a character that means something in YAML.
        return text


def _display_path(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@dataclass
class Layers:
    """Layers merged so far.

    Attributes:
        tree: The merged values.
        origins: Dotted key to the layer that set it.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, data: Mapping[str, Any], origin: str) -> None:
        """Merge a layer over the ones below it: sections key by key, other values whole."""
        self._merge(self.tree, data, origin, ())

    def set(self, path: Sequence[str], value: Any, origin: str) -> None:
        """Merge one value: the layer of a variable or of a ``--set``."""
        for part in reversed(path):
            value = {part: value}
        self.add(value, origin)

    def _merge(
        self, into: dict[str, Any], data: Mapping[str, Any], origin: str, parent: tuple[str, ...]
    ) -> None:
        for key, value in data.items():
            path = (*parent, str(key))
            below = into.get(key)
            if (
                isinstance(value, Mapping)
                and isinstance(below, dict)
                # A section whose `type:` changes is replaced: the old variant's keys would not fit.
                and ("type" not in value or value["type"] == below.get("type", value["type"]))
            ):
                self._merge(below, value, origin, path)
                continue
            # A section that is replaced as a whole takes its keys' origins with it.
            dotted = ".".join(path)
            for inner in [name for name in self.origins if name.startswith(f"{dotted}.")]:
                del self.origins[inner]
            self.origins[dotted] = origin
            if isinstance(value, Mapping):
                # A section of its own: the layer's data must not change with later layers.
                into[key] = {}
                self._merge(into[key], value, origin, path)
            else:
                into[key] = value


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf, in order."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def resolve_references(
    value: Any, environ: Mapping[str, str], source: str, at: tuple[str, ...] = ()
) -> Any:
    """Replace references in every string of a tree.

    Args:
        value: Plain data as YAML gives it.
        environ: Environment for ``${NAME}``.
        source: The file, for the error.
        at: Path of ``value`` inside the file.

    Raises:
        ConfigError: A variable or file does not exist; names file, key and variable.
    """
    if isinstance(value, dict):
        return {
            key: resolve_references(item, environ, source, (*at, str(key)))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            resolve_references(item, environ, source, (*at, str(index)))
            for index, item in enumerate(value)
        ]
    if isinstance(value, str):
        # One pass: a secret that itself contains `${` is taken as it is.
        return _REFERENCE.sub(lambda match: _lookup(match, environ, source, at), value)
    return value


def referenced_variables(text: str) -> set[str]:
    """Names of the environment variables that a configuration file refers to."""
    return {name.strip() for is_file, name in _REFERENCE.findall(text) if not is_file}


def _lookup(
    match: re.Match[str], environ: Mapping[str, str], source: str, at: tuple[str, ...]
) -> str:
    is_file, name = match.group(1), match.group(2).strip()
    key = ".".join(at)
    if is_file:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{source}, key {key}: there is no file {name!r}.", param=key)
        # A file of a secret often ends with a newline that is not part of it.
        return path.read_text().strip()
    if name not in environ:
        raise ConfigError(
            f"{source}, key {key}: the environment variable {name} is not set.",
            f"export {name}=… or write the value.",
            key,
        )
    return environ[name]
