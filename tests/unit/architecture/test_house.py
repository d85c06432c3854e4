"""Bars of the house, computed with ``ast``: rooms, circles, names, records, comments."""

# Lists of words read best as prose.
# ruff: noqa: SIM905

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGES = ("sunloom", "sunloom_retail")
LARGEST_ROOM = 0.20
REPEATED_FILE_NAMES, REPEATED_FROM = 5, 3
POSITIONAL_ARGUMENTS = 5
DICT_RETURNS = 20
COMMENTS_IN_100_LINES = (2.5, 6.0)
HTTP_EDGE = ("sunloom/serving/apps", "sunloom/serving/asgi")
# Names that a framework or a protocol of Python prescribes.
PRESCRIBED = {"forward"}
# Built-ins whose arguments are a sequence written out.
VARIADIC = {"max", "min", "print", "set", "frozenset"}

PARTICIPLES = frozenset(
    """told written given taken held kept made found known shown seen built sent lost left bound
    begun drawn chosen spoken broken done gone grown hidden laid lent led met paid split stood
    struck sworn taught thought thrown torn understood undone woven won worn wound forgotten
    frozen borne born bought brought caught dealt dug fed felt fought forbidden forgiven gotten
    heard hurt learnt meant mistaken proven ridden risen sold shaken sought spent sprung stolen
    stuck stung swept swum swung woken withdrawn rebuilt untold unset unread unbound overridden
    rewritten unwrapped said""".split()
)
ADVERBS = frozenset(
    """aside apart away again alone alike already also always ago after afterwards along around
    ahead back backwards before beside besides below above beneath between beyond by down early
    earlier earliest either else elsewhere enough ever far forth forward forwards further hence
    here how however in indeed inside instead just last late later latest least less maybe more
    most much near nearby nearly never next now off often on once only onward out outside over
    perhaps quickly quietly rather sideways since so sometimes soon still then there thereby
    through throughout thus till today together tomorrow too under underneath until untied up
    upon upwards very well when where while within without yet like as at than to for from both
    each every some none nothing any all other others ones one many few such same""".split()
)
# Verbs in the imperative, and nouns, that only look like participles.
IMPERATIVES = frozenset("""read set put cut run split spread shut""".split())
ENDS_IN_ED = frozenset(
    """speed feed seed need embed exceed proceed bleed breed red bed shed""".split()
)
ENDS_IN_ING = frozenset(
    """string ring king thing ping sing bring spring padding encoding listing floating""".split()
)


@cache
def sources(root: Path) -> dict[Path, ast.Module]:
    files = [file for name in PACKAGES for file in sorted((root / "platform" / name).rglob("*.py"))]
    return {file.relative_to(root / "platform"): ast.parse(file.read_text()) for file in files}


def nodes(root: Path, *kinds: type) -> Iterator[tuple[Path, ast.AST]]:
    for file, tree in sources(root).items():
        yield from ((file, node) for node in ast.walk(tree) if isinstance(node, kinds))


def line_count(root: Path, file: Path) -> int:
    return len((root / "platform" / file).read_text().splitlines())


def module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_participle_or_adverb(name: str) -> bool:
    word = name.strip("_")
    if not word or "_" in word or word in IMPERATIVES | PRESCRIBED:
        return False
    return (
        word in PARTICIPLES | ADVERBS
        or (word.endswith("ed") and word not in ENDS_IN_ED)
        or (word.endswith("ing") and word not in ENDS_IN_ING)
    )


def test_modules_import_no_circle(project_root: Path) -> None:
    """Imports inside functions and for type checking count too."""
    modules = {module_name(file): tree for file, tree in sources(project_root).items()}
    imports: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names} & modules.keys()
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    imports[name].add(submodule if submodule in modules else node.module)
        imports[name] = (imports[name] & modules.keys()) - {name}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        raise AssertionError(f"circle: {' -> '.join(error.args[1])}") from None


def test_no_room_is_larger_than_a_fifth_of_the_house(project_root: Path) -> None:
    rooms: Counter[str] = Counter()
    for file in sources(project_root):
        rooms["/".join(file.parts[:2])] += line_count(project_root, file)
    total = rooms.total()
    assert {r: n / total for r, n in rooms.items() if n / total > LARGEST_ROOM} == {}


def test_functions_are_named_by_verbs_and_nouns(project_root: Path) -> None:
    functions = nodes(project_root, ast.FunctionDef, ast.AsyncFunctionDef)
    assert [
        f"{file}:{node.lineno}: {node.name}"
        for file, node in functions
        if not node.name.startswith("__") and is_participle_or_adverb(node.name)
    ] == []


def test_a_class_name_has_one_meaning(project_root: Path) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file, node in nodes(project_root, ast.ClassDef):
        places[node.name.strip("_")].append(f"{file}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_file_names_rarely_repeat(project_root: Path) -> None:
    prescribed = ("__init__.py", "app.py", "protocol.py")
    names = Counter(file.name for file in sources(project_root) if file.name not in prescribed)
    repeated = {name: n for name, n in names.items() if n >= REPEATED_FROM}
    assert len(repeated) <= REPEATED_FILE_NAMES, repeated


def test_many_arguments_are_passed_by_keyword(project_root: Path) -> None:
    long_calls = []
    for file, node in nodes(project_root, ast.Call):
        count = sum(not isinstance(argument, ast.Starred) for argument in node.args)
        is_variadic = isinstance(node.func, ast.Name) and node.func.id in VARIADIC
        if count > POSITIONAL_ARGUMENTS and not is_variadic:
            long_calls.append(f"{file}:{node.lineno}: {ast.unparse(node.func)} ({count})")
    assert long_calls == []


def test_functions_return_records(project_root: Path) -> None:
    """Plain dictionaries are for the edges: HTTP, JSON and what a library asks for."""
    returning = [
        f"{file}:{node.lineno}: {node.name}"
        for file, node in nodes(project_root, ast.FunctionDef, ast.AsyncFunctionDef)
        if node.returns is not None
        and ast.unparse(node.returns).strip("'") == "dict[str, Any]"
        and not file.as_posix().startswith(HTTP_EDGE)
    ]
    assert len(returning) <= DICT_RETURNS, "\n".join(returning)


def test_comments_say_why_here_and_there(project_root: Path) -> None:
    comments = lines = 0
    for file in sources(project_root):
        text = (project_root / "platform" / file).read_text()
        lines += len(text.splitlines())
        comments += sum(
            token.type == tokenize.COMMENT
            and not re.match(r"#\s*(noqa|type:|fmt:|pragma)", token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
        )
    low, high = COMMENTS_IN_100_LINES
    assert low <= 100 * comments / lines <= high
