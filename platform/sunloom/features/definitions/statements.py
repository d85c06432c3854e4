"""Statements of a definitions module, executed one by one: one that fails takes no other with it.

Python ends an import at the first of them. Here a features class goes on without the attribute that
cannot be evaluated and a module without the statement, and both are kept with line and reason.
"""

from __future__ import annotations
import __future__

import ast
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sunloom.errors import DefinitionError
from sunloom.features.definitions.failures import dependent_reason


class FailedStatement(NamedTuple):
    """A statement of a module that could not be executed."""

    statement: ast.stmt
    error: DefinitionError


# Like sys.modules: a module is executed once, and opened many times.
_failed: dict[str, Sequence[FailedStatement]] = {}
_failed_attributes: WeakKeyDictionary[Any, Mapping[str, DefinitionError]] = WeakKeyDictionary()


def failed_statements(module: ModuleType) -> Sequence[FailedStatement]:
    """What failed in the module and its submodules, apart from attributes of features classes."""
    return [item for name in _failed if is_inside(name, module) for item in _failed[name]]


def failed_attributes(features_class: Any) -> Mapping[str, DefinitionError]:
    """Attributes that a features class goes without, each with the reason."""
    return _failed_attributes.get(features_class, {})


def is_inside(name: str, module: ModuleType) -> bool:
    """Whether a module name is the module's or one of its submodules'."""
    return name == module.__name__ or name.startswith(module.__name__ + ".")


def execute_module(source: bytes, file: str, module: ModuleType) -> None:
    """Execute a module's source.

    Raises:
        SyntaxError: It cannot be parsed.
    """
    execution = _Execution(file, module)
    execution.run(ast.parse(source, file))
    _failed[module.__name__] = execution.failed


@contextmanager
def statement_imports(name: str) -> Iterator[None]:
    """Execute a module and its submodules so, where the block imports them for the first time."""
    finder = _StatementFinder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _StatementFinder(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name and not fullname.startswith(self._name + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _StatementLoader(fullname, spec.origin)
        return spec


class _StatementLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        path = str(self.path)
        execute_module(self.get_data(path), path, module)


class _Execution:
    """The execution of one module.

    Args:
        file: Its file.
        module: The module, empty so far.
    """

    def __init__(self, file: str, module: ModuleType) -> None:
        self.failed: list[FailedStatement] = []
        self._file = file
        self._namespace = module.__dict__
        self._flags = 0
        self._errors: dict[str, DefinitionError] = {}

    def run(self, tree: ast.Module) -> None:
        """Execute each statement."""
        self._namespace["__doc__"] = ast.get_docstring(tree, clean=False)
        for statement in _split_imports(tree.body):
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                self._flags |= getattr(__future__, statement.names[0].name).compiler_flag
            # Alone, any text would be compiled to the module's docstring.
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                self._run_statement(statement)

    def _run_statement(self, statement: ast.stmt) -> None:
        attributes: dict[str, DefinitionError] = {}
        while (raised := self._execute(statement)) is not None:
            line = self._line_of(raised, statement)
            attribute = _attribute_at(statement, line) or self._refused_attribute(statement, raised)
            if attribute is None:
                error = self._definition_error(raised, line, _subject_of(statement, line))
                self._errors |= dict.fromkeys(_defined_names(statement), error)
                self.failed.append(FailedStatement(statement, error))
                return
            assert isinstance(statement, ast.ClassDef)
            # Executed once more without it: a class's body holds declarations, without effects.
            statement.body.remove(attribute)
            statement.body = statement.body or [ast.copy_location(ast.Pass(), attribute)]
            namespace = _namespace_of(statement)
            for name in _defined_names(attribute):
                attributes[name] = self._definition_error(
                    raised, attribute.lineno, f"{namespace}.{name}"
                )
            self._errors |= attributes
        if attributes:
            assert isinstance(statement, ast.ClassDef)
            _failed_attributes[self._namespace[statement.name]] = attributes

    def _refused_attribute(self, statement: ast.stmt, raised: Exception) -> ast.stmt | None:
        """The attribute that a features class's decorator refuses, naming no line."""
        if not isinstance(statement, ast.ClassDef) or not _is_features_class(statement):
            return None
        for attribute in statement.body:
            without = copy(statement)
            without.body = [other for other in statement.body if other is not attribute]
            # Another error than before is that of the next attribute.
            if without.body and str(self._execute(without)) != str(raised):
                return attribute
        return None

    def _execute(self, statement: ast.stmt) -> Exception | None:
        try:
            code = compile(
                ast.Module([statement], []), self._file, "exec", self._flags, dont_inherit=True
            )
            exec(code, self._namespace)
        except Exception as error:  # noqa: BLE001 - it is the user's code
            return error
        return None

    def _line_of(self, raised: Exception, statement: ast.stmt) -> int:
        """The line of the statement that raised, not of a function elsewhere that it calls."""
        decorators = getattr(statement, "decorator_list", ())
        first = min(node.lineno for node in (statement, *decorators))
        lines = range(first, (statement.end_lineno or statement.lineno) + 1)
        frames = traceback.extract_tb(raised.__traceback__)
        own = [f.lineno for f in frames if f.filename == self._file and f.lineno in lines]
        return own[-1] or statement.lineno if own else statement.lineno

    def _definition_error(self, raised: Exception, line: int, name: str) -> DefinitionError:
        text = str(raised).strip() or "no message"
        reason, hint = f"{type(raised).__name__}: {text}", ""
        missing = raised.name if isinstance(raised, NameError | AttributeError) else None
        if (cause := self._errors.get(missing or "")) is not None:
            reason, hint = dependent_reason(cause.param, cause.why), cause.hint
        return DefinitionError.of_construct(self._file, line, reason, name=name, hint=hint)


def _defined_names(statement: ast.stmt) -> Sequence[str]:
    """The names that a statement gives values to, as far as they are plain."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return (statement.name,)
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return ()
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _subject_of(statement: ast.stmt, line: int) -> str:
    """What the statement defines: a class's namespace, a name, else the line."""
    if isinstance(statement, ast.ClassDef) and _is_features_class(statement):
        return _namespace_of(statement)
    return next(iter(_defined_names(statement)), f"line {line}")


def _namespace_of(statement: ast.ClassDef) -> str:
    """Chalk's namespace of a features class, from its source."""
    from chalk.utils.string import to_snake_case

    for decorator in statement.decorator_list:
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return str(to_snake_case(statement.name))


def _split_imports(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Each statement; of ``from module import a, b`` one for each name."""
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                part = ast.ImportFrom(statement.module, [alias], statement.level)
                yield ast.copy_location(part, statement)
        else:
            yield statement


def _attribute_at(statement: ast.stmt, line: int) -> ast.stmt | None:
    """The part of a features class's body on a line, if it is one."""
    # Other classes would mean something else without an attribute: a dataclass, for one.
    if not isinstance(statement, ast.ClassDef) or not _is_features_class(statement):
        return None
    return next((i for i in statement.body if i.lineno <= line <= (i.end_lineno or line)), None)


def _is_features_class(statement: ast.ClassDef) -> bool:
    names = [ast.unparse(getattr(item, "func", item)) for item in statement.decorator_list]
    return any(name.split(".")[-1] == "features" for name in names)
