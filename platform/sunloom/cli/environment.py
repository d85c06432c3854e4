"""Set-up of ``.venv`` from the pinned lock; the Makefile calls it with the system's Python.

It runs before anything is installed, so it needs the standard library only, and it is
started by its path. A stamp inside the environment holds the hash of the locks and of
``pyproject.toml``: while that matches, there is nothing to do. With the argument ``compile`` it
only compiles the environment that it finds, as the Dockerfile has it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOCK = Path("requirements/cpu.lock")
CUDA_LOCK = Path("requirements/cuda-runtime.lock")
STAMP = Path(".venv/sunloom.stamp")
PYTHON = Path(".venv/bin/python")
# Measured: 4.8 GB with the CPU build of torch, 8.9 GB with PyPI's CUDA build.
SMALL_GB, LARGE_GB = 5, 9
SOURCES = ("platform", "jobs", "serve_apps")
# A third of the sources, and commands import hardly any: what they do is compiled at that time.
_NEVER_IMPORTED = (
    r"[/\\](tests?|anthropic|azure|databricks|faker|kubernetes|litestar|lm_eval|mlflow|nltk|pip"
    r"|rllib|schemathesis|statsmodels|plotly[/\\](validators|graph_objs)"
    r"|transformers[/\\]models[/\\](?!auto|bert|clip|llama|resnet|vit)\w+)[/\\]"
)


# Not a SunloomError: started by its path, this file cannot import the package.
class SetupError(Exception):
    """The environment cannot be set up; the message says what to do."""


def main() -> int:
    """Bring ``.venv`` up to date; returns the exit status."""
    os.chdir(ROOT)
    try:
        if sys.argv[1:] == ["compile"]:
            _compile_environment()
        else:
            _set_up()
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    return 0


def lock_hash(root: Path = ROOT) -> str:
    """Hash of everything that decides what is installed."""
    digest = hashlib.sha256()
    # An editable install records scripts and entry points of pyproject.toml.
    for name in (LOCK, CUDA_LOCK, Path("pyproject.toml")):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def entry_of(name: str, lock: str) -> str:
    """The lock's entry for one package: ``uv==0.13.9`` and the hashes of its files."""
    entry = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*\n", lock, re.M)
    if entry is None:
        raise SetupError(f"{LOCK} has no pin for {name}.")
    return entry[0]


def lock_texts(lock: str, *, is_small: bool) -> list[str]:
    """The lock as it is and with torch's CPU build, the one to be tried first in front.

    Hashes belong to a version, and the CPU build's is another: of ``torch==2.13.0`` uv finds none
    for 2.13.0+cpu, and pip takes PyPI's build, whose hash its index tells.

    Args:
        lock: One of the locks.
        is_small: Whether a CPU build is there.
    """
    with_cpu_build = re.sub(r"^(torch==[\d.]+)", r"\1+cpu", lock, flags=re.M)
    texts = dict.fromkeys((with_cpu_build, lock) if is_small else (lock, with_cpu_build))
    return list(texts)


def pip_settings(listing: str) -> dict[str, str]:
    """Translate ``pip config list`` into the variables that uv reads.

    Args:
        listing: Lines such as ``global.index-url='https://…'``; later ones win, as in pip.

    Returns:
        Variables for uv; nothing for what pip is not told either.
    """
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}
    names |= {"find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}
    found: dict[str, str] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        name = names.get(key.rpartition(".")[2].strip())
        if name:
            # pip prints values of several lines with `\n` spelled out.
            found[name] = value.strip().strip("'\"").replace("\\n", " ").strip()
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = ",".join(found["UV_FIND_LINKS"].split())
    return found


def is_cuda_build(version_file: str) -> bool:
    """Whether torch's ``version.py`` says that it was built for CUDA."""
    for line in version_file.splitlines():
        if line.startswith("cuda"):
            return not line.endswith("None")
    return False


def has_cpu_torch(find_links: str) -> bool:
    """Whether one of the folders that pip is pointed to holds a CPU build of torch."""
    places = [Path(place) for place in find_links.split(",") if place]
    return any(list(place.glob("torch-*+cpu-cp311-*")) for place in places if place.is_dir())


def compile_folders(folders: Sequence[str | Path], python: str | Path = PYTHON) -> None:
    """Write the byte code of all modules in the folders, quietly and on all cores.

    Where it cannot be written later (a read-only image, ``PYTHONDONTWRITEBYTECODE``), each command
    would spend most of its time on compiling what it imports. What is up to date is passed over.

    Args:
        folders: Relative to the working directory: the names of those above do not count.
        python: Whose byte code.
    """
    cores = str(len(os.sched_getaffinity(0)))
    # Packages ship templates and Python 2 files that do not compile, and sources that warn.
    command = [python, "-W", "ignore", "-m", "compileall", "-qq", "-j", cores]
    command += ["-x", _NEVER_IMPORTED, *folders]
    # Whatever is not compiled now is compiled when it is imported: no failure of the set-up.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _compile_environment() -> None:
    print("set-up: compiling the environment, once: 1 to 3 minutes", flush=True)
    packages = sorted(Path(".venv").glob("lib/python3*/site-packages"))
    compile_folders([*packages, *(name for name in SOURCES if Path(name).is_dir())])


def _set_up() -> None:
    _check_machine()
    key = lock_hash()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == f"{key}\n{ROOT}\n":
        return
    started = time.monotonic()
    _make_venv()
    variables = _uv_variables()
    _announce(has_cpu_torch(variables.get("UV_FIND_LINKS", "")))
    _install(variables)
    _compile_environment()
    # Last: a set-up that was interrupted must run again.
    STAMP.write_text(f"{key}\n{ROOT}\n")
    print(f"set-up: done in {time.monotonic() - started:.0f} s", flush=True)


def _check_machine() -> None:
    if sys.version_info[:2] != (3, 11):
        found = platform.python_version()
        raise SetupError(f"Python 3.11 is needed, this is {found}. Install python3.11.")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        where = f"{sys.platform} on {platform.machine()}"
        raise SetupError(f"The lock is for Linux on x86-64, this is {where}; see Dockerfile.")


def _announce(small: bool) -> None:
    disk_gb = SMALL_GB if small else LARGE_GB
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    torch = "the CPU build of torch that pip is pointed to" if small else "torch from PyPI"
    minutes = "1 to 5 minutes" if small else "3 to 15 minutes"
    # Flushed: pip and uv write to the same terminal without this process's buffer.
    print(
        f"set-up: .venv from {LOCK} with {torch}: about {disk_gb} GB of disk "
        f"({free_gb:.0f} GB are free) and {minutes}, by the network.",
        flush=True,
    )
    if free_gb < disk_gb:
        raise SetupError(f"About {disk_gb} GB are needed in {ROOT}; free some space first.")


def _make_venv() -> None:
    # The scripts in an environment that was moved point to the old place.
    is_moved = STAMP.exists() and STAMP.read_text().splitlines()[1:] != [str(ROOT)]
    is_ours = PYTHON.exists() and not is_moved
    # An environment whose system Python was removed or upgraded may exist and not start.
    if is_ours and subprocess.run([PYTHON, "-c", ""], check=False).returncode == 0:
        return
    STAMP.unlink(missing_ok=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", ".venv"], check=False)
    if made.returncode:
        raise SetupError(
            "python -m venv failed; on Debian or Ubuntu: apt-get install python3.11-venv"
        )


def _install(variables: dict[str, str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as uv:
        uv.write(entry_of("uv", LOCK.read_text()))
        uv.flush()
        _run([PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", uv.name])
    _install_lock(LOCK, variables)
    # Read, not imported: a CUDA build cannot be imported before its libraries are installed.
    version_file = next(Path(".venv").glob("lib/python3*/site-packages/torch/version.py"))
    if is_cuda_build(version_file.read_text()):
        print("set-up: torch is a CUDA build, adding the libraries that it loads", flush=True)
        _install_lock(CUDA_LOCK, variables)
    # The lock has the build backend too; isolation would download one that is not pinned.
    project = ["--no-deps", "--no-build-isolation", "--editable", "."]
    _run([".venv/bin/uv", "pip", "install", "--quiet", *project], variables)


def _install_lock(lock: Path, variables: dict[str, str]) -> None:
    """Install with uv; pip takes over, slowly, where uv cannot reach what pip can."""
    is_small = has_cpu_torch(variables.get("UV_FIND_LINKS", ""))
    texts = lock_texts(lock.read_text(), is_small=is_small)
    for number, text in enumerate((*texts, *texts)):
        with tempfile.NamedTemporaryFile("w", suffix=".lock") as file:
            file.write(text)
            file.flush()
            # The lock is complete: a resolver could only add what it does not pin.
            arguments = ["install", "--no-deps", "--require-hashes", "-r", file.name]
            try:
                if number < len(texts):
                    _run([".venv/bin/uv", "pip", *arguments], variables)
                else:
                    _run([PYTHON, "-m", "pip", *arguments, "--no-compile"])
            except SetupError:
                if number == 2 * len(texts) - 1:
                    raise
                print("set-up: that failed; trying another way (pip is slower)", flush=True)
            else:
                return


def _uv_variables() -> dict[str, str]:
    listing = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    variables = pip_settings(listing.stdout)
    # pip lists its environment first though it wins there; what uv itself is told wins here.
    if "PIP_FIND_LINKS" in os.environ:
        variables["UV_FIND_LINKS"] = ",".join(os.environ["PIP_FIND_LINKS"].split())
    variables = {name: value for name, value in variables.items() if name not in os.environ}
    if "UV_INDEX" in variables:
        # pip looks in all its indexes; uv would stop at the first that knows the name.
        variables.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    # Named, because an environment that the caller has activated would be taken instead.
    return {**variables, "VIRTUAL_ENV": str(ROOT / ".venv")}


def _run(command: list[str | Path], variables: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    status = subprocess.run(words, check=False, env={**os.environ, **(variables or {})}).returncode
    if status:
        raise SetupError(f"`{' '.join(words)}` failed with status {status}; its output is above.")


if __name__ == "__main__":
    sys.exit(main())
