"""``/docs`` and ``/openapi.json`` over all apps."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

import sunloom
from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.apps.gateway.readiness import probe_paths
from sunloom.serving.auth.scopes import PUBLIC

_TRUSTED_S = 30.0
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')
_METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "code", "message", "hint", "param", "request_id"],
            "properties": {
                "type": {"type": "string"},
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}


def build_router(settings: Settings, client: InnerClient, gateway: FastAPI) -> APIRouter:
    """Routes of the documentation."""
    router = APIRouter()
    documents = TtlCache[str, dict[str, Any]](_TRUSTED_S)

    async def merge_all() -> dict[str, Any]:
        parts = await gather_documents(settings, client)
        return merge_documents({"gateway": gateway.openapi(), **parts})

    @router.get("/openapi.json", include_in_schema=False)
    async def document() -> dict[str, Any]:
        return await documents.get_or_await("openapi", merge_all)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        paths = (await document())["paths"]
        return HTMLResponse(render_page(paths))

    return router


async def gather_documents(settings: Settings, client: InnerClient) -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each app that has one to show now."""
    names = list(await asyncio.to_thread(probe_paths, settings))
    answers = await asyncio.gather(*(_fetch(client, APPS[name].openapi_path) for name in names))
    return {name: answer for name, answer in zip(names, answers, strict=True) if answer}


async def _fetch(client: InnerClient, path: str) -> dict[str, Any] | None:
    try:
        answer = await client.request("GET", path, timeout_s=5.0)
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    document = answer.json()
    return document if isinstance(document, dict) else None


def merge_documents(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One document; schemas get their app's name in front, so that none hides another."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    for name, part in parts.items():
        document = _prefixed(part, name.title())
        paths |= {path: _described(path, item) for path, item in document["paths"].items()}
        schemas |= document.get("components", {}).get("schemas", {})
    needed = _reachable(paths, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sunloom",
            "version": sunloom.__version__,
            "description": "Models, features and agents behind one gateway.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {name: schemas[name] for name in sorted(needed)},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _reachable(paths: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """Schemas that the paths refer to, through others or not."""
    found: set[str] = set()
    waiting = set(_REFERENCE.findall(json.dumps(paths)))
    while waiting:
        found |= waiting
        texts = [json.dumps(schemas[name]) for name in waiting]
        waiting = {one for text in texts for one in _REFERENCE.findall(text)} - found
    return found


def _prefixed(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    text = re.sub(r'("#/components/schemas/)', rf"\g<1>{prefix}", json.dumps(document))
    copy: dict[str, Any] = json.loads(text)
    components = copy.get("components", {})
    named = {prefix + name: schema for name, schema in components.get("schemas", {}).items()}
    return copy | {"components": components | {"schemas": named}}


def _described(path: str, item: dict[str, Any]) -> dict[str, Any]:
    """What holds for every operation: its key, and the one error body."""
    for method in _METHODS:
        if method in item:
            operation = item[method]
            responses = operation.setdefault("responses", {})
            # The guard answers FastAPI's validation errors in the one body.
            responses.pop("422", None)
            responses["default"] = _default()
            if path in PUBLIC:
                operation["security"] = []
    return item


def _default() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": "Error", "content": {"application/json": {"schema": schema}}}


def render_page(paths: Mapping[str, Any]) -> str:
    """A page without a script: it needs no network and no build."""
    from html import escape

    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(str(item[method].get('summary', '')))}</td></tr>"
        for path, item in paths.items()
        for method in _METHODS
        if method in item
    ]
    return _PAGE.replace("ROWS", "\n".join(rows)).replace("VERSION", sunloom.__version__)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sunloom API</title><style>
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
table{border-collapse:collapse;width:100%}td{border-bottom:1px solid #ddd;padding:.3rem .6rem}
td:first-child{font-weight:600;width:5rem}code{font-size:.95em}
</style></head><body><h1>Sunloom API VERSION</h1>
<p>Every route but <code>/healthz</code> and <code>/readyz</code> needs the header
<code>Authorization: Bearer KEY</code>. The whole description, for tools and client generators:
<a href="/openapi.json">/openapi.json</a>.</p>
<table>
ROWS
</table></body></html>
"""
