"""Set-up decides what to install from files that it can read without installing anything."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sunloom.cli import environment


def test_it_needs_the_standard_library_only(project_root: Path) -> None:
    source = (project_root / "platform/sunloom/cli/environment.py").read_text()
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert names <= set(sys.stdlib_module_names)


def test_the_hash_follows_locks_and_project(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/cpu.lock", "requirements/cuda-runtime.lock", "pyproject.toml"):
        (tmp_path / name).write_text("a==1\n")
    before = environment.lock_hash(tmp_path)
    assert environment.lock_hash(tmp_path) == before
    (tmp_path / "requirements/cpu.lock").write_text("a==2\n")
    assert environment.lock_hash(tmp_path) != before


def test_uv_gets_the_settings_of_pip() -> None:
    listing = """
:env:.find-links='/wheels /more'
global.cert='/etc/certs.pem'
global.extra-index-url='file:///a/simple file:///b/simple'
global.index-url='https://example.org/simple'
user.timeout='60'
"""
    assert environment.pip_settings(listing) == {
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/etc/certs.pem",
        "UV_INDEX": "file:///a/simple file:///b/simple",
        "UV_DEFAULT_INDEX": "https://example.org/simple",
    }


def test_a_cuda_build_is_recognised() -> None:
    cpu = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"
    cuda = "__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'\n"
    assert not environment.is_cuda_build(cpu)
    assert environment.is_cuda_build(cuda)


def test_a_cpu_wheel_is_found_where_pip_looks(tmp_path: Path) -> None:
    assert not environment.has_cpu_torch(str(tmp_path))
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert environment.has_cpu_torch(f"/nowhere,{tmp_path}")


def test_all_that_compiles_is_compiled_and_the_rest_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The folder of this test has "test" in its path: only names below it count.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    sources = {
        "site/good/__init__.py": "value = 1\n",
        "site/good/tests/__init__.py": "value = 2\n",
        "site/old.py": "print 'Python 2'\n",
        "site/warns.py": "value = '\\d'\n",
        "platform/ours.py": "value = 3\n",
    }
    for name, text in sources.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    environment.compile_folders(["site", "platform"], sys.executable)
    compiled = {path.name.partition(".")[0] for path in tmp_path.rglob("*.pyc")}
    assert compiled == {"__init__", "warns", "ours"}
    assert not Path("site/good/tests/__pycache__").exists()
    assert capfd.readouterr() == ("", "")


def test_uv_itself_is_pinned(project_root: Path) -> None:
    lock = (project_root / "requirements/cpu.lock").read_text()
    assert re.fullmatch(
        r"uv==[\d.]+ \\\n    --hash=sha256:\w{64}\n", environment.entry_of("uv", lock)
    )
    with pytest.raises(environment.SetupError, match="no pin for nothing-such"):
        environment.entry_of("nothing-such", lock)


def test_the_build_of_torch_that_is_there_is_tried_first(project_root: Path) -> None:
    lock = (project_root / "requirements/cpu.lock").read_text()
    version = environment.entry_of("torch", lock).split()[0]
    small, plain = environment.lock_texts(lock, is_small=True)
    assert plain == lock
    assert environment.entry_of("torch", small).split()[0] == f"{version}+cpu"
    assert small.replace(f"{version}+cpu", version) == lock
    assert environment.lock_texts(lock, is_small=False) == [plain, small]
    other = (project_root / "requirements/cuda-runtime.lock").read_text()
    assert environment.lock_texts(other, is_small=True) == [other]


def test_another_python_is_refused_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(environment.platform, "python_version", lambda: "3.9.2")
    with pytest.raises(environment.SetupError, match=r"3\.11 is needed, this is 3\.9\.2"):
        environment._check_machine()


def test_make_lists_every_target_that_is_promised(project_root: Path) -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=project_root, capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[0] for line in listed.splitlines()}
    promised = {"demo", "test", "install-dev", "all-checks", "demo-comprehensive", "run-api"}
    promised |= {"unit-test", "integration-test", "performance-test", "security-test", "clean"}
    assert promised <= names


def test_make_refuses_a_machine_without_python_3_11(project_root: Path) -> None:
    done = subprocess.run(
        ["make", "venv", "PYTHON="], cwd=project_root, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "apt-get install python3.11" in done.stderr
