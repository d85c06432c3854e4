"""``/docs`` and ``/openapi.json``: one OpenAPI document over all apps."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

import sunloom
from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.serving.app_table import APPS
from sunloom.serving.apps.gateway.health_routes import probe_paths
from sunloom.serving.apps.gateway.inner_client import InnerClient
from sunloom.serving.auth.scopes import PUBLIC

# An app that comes up later appears within this time.
_TRUSTED_S = 30.0
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')
_METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_TEXT = {"type": "string"}
_ERROR_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("type", "code", "message", "hint"), _TEXT),
    "param": {"type": ["string", "null"]},
    "request_id": _TEXT,
}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "object", "required": [*_ERROR_FIELDS], "properties": _ERROR_FIELDS}
    },
}
_ERROR_RESPONSE = {
    "description": "Error",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def build_router(settings: Settings, client: InnerClient, gateway: FastAPI) -> APIRouter:
    """Routes of the documentation."""
    router = APIRouter()
    merged = TtlCache[str, dict[str, Any]](_TRUSTED_S)

    async def merge_all() -> dict[str, Any]:
        names = list(await asyncio.to_thread(probe_paths, settings))
        documents = await asyncio.gather(
            *(_fetch(client, APPS[name].openapi_path) for name in names)
        )
        # Only the apps that are up have one.
        parts = {name: part for name, part in zip(names, documents, strict=True) if part}
        return merge_documents({"gateway": gateway.openapi(), **parts})

    @router.get("/openapi.json", include_in_schema=False)
    async def document() -> dict[str, Any]:
        return await merged.get_or_await("openapi", merge_all)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        paths = (await document())["paths"]
        return HTMLResponse(render_page(paths))

    return router


async def _fetch(client: InnerClient, path: str) -> dict[str, Any] | None:
    try:
        response = await client.request("GET", path, timeout_s=5.0)
    # An app that is down is left out: it must not take the other apps' documentation with it.
    except httpx.HTTPError:
        return None
    if response.status_code != 200:
        return None
    document = response.json()
    return document if isinstance(document, dict) else None


def merge_documents(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One document; schemas get their app's name as prefix, so that none hides another."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    for name, part in parts.items():
        document = _prefix_schemas(part, name.title())
        paths |= {
            path: _complete_operations(path, item) for path, item in document["paths"].items()
        }
        schemas |= document.get("components", {}).get("schemas", {})
    # vLLM's document has the schemas of all its routes, most of which are not offered.
    needed = _referenced_schemas(paths, schemas)
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


def _referenced_schemas(paths: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """Names of the schemas that the paths refer to, directly or through others."""
    names: set[str] = set()
    new = set(_REFERENCE.findall(json.dumps(paths)))
    while new:
        names |= new
        texts = [json.dumps(schemas[name]) for name in new]
        new = {name for text in texts for name in _REFERENCE.findall(text)} - names
    return names


def _prefix_schemas(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    # In the text: a reference may stand at any depth of the document.
    text = re.sub(r'("#/components/schemas/)', rf"\g<1>{prefix}", json.dumps(document))
    copy: dict[str, Any] = json.loads(text)
    components = copy.get("components", {})
    named = {prefix + name: schema for name, schema in components.get("schemas", {}).items()}
    return copy | {"components": components | {"schemas": named}}


def _complete_operations(path: str, item: dict[str, Any]) -> dict[str, Any]:
    """Complete each operation with the common error body, and public ones without a key."""
    for method in _METHODS:
        if method in item:
            operation = item[method]
            responses = operation.setdefault("responses", {})
            # The middleware replaces FastAPI's validation errors by the common error body.
            responses.pop("422", None)
            responses["default"] = _ERROR_RESPONSE
            if path in PUBLIC:
                operation["security"] = []
    return item


def render_page(paths: Mapping[str, Any]) -> str:
    """The documentation page, without scripts: browsers need no network for it."""
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
