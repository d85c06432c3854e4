"""The app ``llm``: ``serve run serve_apps.llm:build``."""

from ray.serve import Application

from sunloom.serving.deploy.applications import AppArgs, build_app


def build(args: AppArgs) -> Application:
    """Build the application."""
    application: Application = build_app("llm", args)
    return application
