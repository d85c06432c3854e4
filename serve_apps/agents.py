"""The app ``agents``: ``serve run serve_apps.agents:build``."""

from ray.serve import Application

from sunloom.serving.deploy.applications import AppArgs, build_app


def build(args: AppArgs) -> Application:
    """Build the application."""
    application: Application = build_app("agents", args)
    return application
