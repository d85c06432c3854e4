"""``sunloom demo``: every room once, on real parts, in one run."""

from sunloom.workflows.demo.flow import run_demo

__all__ = ["run_demo"]
