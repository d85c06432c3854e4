"""The app ``gateway``: ``serve run serve_apps.gateway:build``."""

from ray.serve import Application

from sunloom.serving.deploy.applications import AppArgs, build_app


def build(args: AppArgs) -> Application:
    """Build the application."""
    application: Application = build_app("gateway", args)
    return application
