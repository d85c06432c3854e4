"""Orphaned processes of an instance: HAProxy and engine cores whose Ray has ended."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from sunloom.serving.deploy.environment import INSTANCE


def end_orphans(folder: Path, grace_s: float = 3.0) -> list[str]:
    """End HAProxy and vLLM processes of one instance.

    Args:
        folder: The instance's folder: HAProxy has it on its command line, and every process of
            the instance in its environment.
        grace_s: Seconds between SIGTERM and SIGKILL.

    Returns:
        Names of the processes that were ended.
    """
    orphans = [process for process in psutil.process_iter() if _is_orphan(process, folder)]
    names = [_describe(process) for process in orphans]
    for process in orphans:
        _signal(process, kill=False)
    _, alive = psutil.wait_procs(orphans, timeout=grace_s)
    for process in alive:
        _signal(process, kill=True)
    psutil.wait_procs(alive, timeout=grace_s)
    return names


def _is_orphan(process: psutil.Process, folder: Path) -> bool:
    try:
        # This process is of the instance, too.
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        command = process.cmdline()
        if any(part.startswith(f"{folder}/") for part in command) and "-db" in command:
            return True
        # vLLM renames its processes, so only the environment tells which instance they are of.
        title = " ".join(command)
        return "VLLM::" in title and process.environ().get(INSTANCE) == str(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.pid})"
    except psutil.NoSuchProcess:
        return str(process.pid)
