"""The app ``tabular``: ``serve run serve_apps.tabular:build``."""

from ray.serve import Application

from sunloom.serving.deploy.applications import AppArgs, build_app


def build(args: AppArgs) -> Application:
    """Build the application."""
    application: Application = build_app("tabular", args)
    return application
