"""``POST /features/transform``: one row over HTTP is the row of the file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from sunloom.config import Settings
from sunloom.core.model_registry import open_registry
from sunloom.preprocessing.artifact import register, save
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.serving.apps.features.app import build_features_app
from sunloom.serving.asgi import ASGIApp
from sunloom.serving.auth.middleware import GatewayMiddleware
from tests.unit.preprocessing.tables import colours

STEPS: list[dict[str, Any]] = [
    {"type": "simple_imputer", "columns": ["amount"]},
    {"type": "target_encoder", "columns": ["colour"], "target": "bought"},
    {"type": "one_hot_encoder", "columns": ["size"], "handle_unknown": "error"},
    {"type": "calendar", "columns": ["at"], "parts": ["hour"]},
]


def rows() -> pl.DataFrame:
    moment = pl.lit("2026-01-05T13:00:00Z").str.to_datetime(time_zone="UTC")
    return colours().select("colour", "size", "amount", "bought").with_columns(at=moment)


@pytest.fixture
def fitted(settings: Settings, tmp_path: Path) -> FittedPipeline:
    found = fit(STEPS, rows())
    save(found, tmp_path / "fitted")
    register(open_registry(settings), found, tmp_path / "fitted", "colours", "production")
    return found


@pytest.fixture
def app(settings: Settings, fitted: FittedPipeline) -> ASGIApp:
    from tests.unit.serving.asgi import OpenGate

    return GatewayMiddleware(build_features_app(settings), OpenGate("features"), "features")


def post(app: ASGIApp, body: Any) -> Any:
    async def send() -> Any:
        transport = httpx.ASGITransport(app=app)
        headers = {"Authorization": "Bearer good"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/features/transform", json=body, headers=headers)

    return asyncio.run(send())


def json_row(place: int) -> dict[str, Any]:
    row = rows().row(place, named=True)
    return row | {"at": row["at"].isoformat()}


def test_a_row_is_prepared_as_in_a_file(app: ASGIApp, fitted: FittedPipeline) -> None:
    answer = post(app, {"artifact": "colours", "rows": [json_row(0), json_row(1)]})
    assert answer.status_code == 200
    assert answer.json()["artifact"] == "colours@1"
    wanted = fitted.apply_frame(rows().head(2)).drop("at").to_dicts()
    found = [{k: v for k, v in row.items() if k != "at"} for row in answer.json()["rows"]]
    assert found == [pytest.approx(row, rel=1e-12) for row in wanted]
    assert found[0]["at_hour"] == 13


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"artifact": None}, 400, "artifact must be a name"),
        ({"rows": "all"}, 400, "rows must be a list"),
        ({"rows": [{}] * 10_001}, 400, "At most 10000 rows"),
        ({"artifact": "colour"}, 404, "There is no model 'colour'"),
        ({"artifact": "adapter"}, 404, "is a model of kind adapter"),
        ({"rows": [{"size": "M"}]}, 422, "rows[0]: The row lacks the column amount"),
    ],
)
def test_a_bad_request_is_refused(
    app: ASGIApp, settings: Settings, tmp_path: Path, change: Any, status: int, words: str
) -> None:
    open_registry(settings).register("adapter", "adapter", tmp_path / "fitted")
    answer = post(app, {"artifact": "colours", "rows": [json_row(0)]} | change)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"size": "XXL"}, "rows[0]: Column 'size' holds 'XXL'"),
        ({"amount": "much"}, "'amount' is a number"),
        ({"at": "noon"}, "no ISO date"),
        ({"at": "2026-01-05T13:00:00"}, "without a time zone"),
    ],
)
def test_a_bad_value_is_refused(app: ASGIApp, value: Any, words: str) -> None:
    answer = post(app, {"artifact": "colours", "rows": [json_row(0) | value]})
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (422, True)


def test_an_image_comes_as_base64(settings: Settings, tmp_path: Path) -> None:
    from base64 import b64encode

    from tests.unit.preprocessing.test_transform_images import encoded, picture
    from tests.unit.serving.asgi import OpenGate

    data = encoded(picture())
    fitted = fit([{"type": "image_statistics", "columns": ["i"]}], pl.DataFrame({"i": [data]}))
    save(fitted, tmp_path / "fitted")
    register(open_registry(settings), fitted, tmp_path / "fitted", "pictures", "production")
    app = GatewayMiddleware(build_features_app(settings), OpenGate("features"), "features")
    sent = [{"i": b64encode(data).decode()}, {"i": None}, {"i": b64encode(b"none").decode()}]
    answer = post(app, {"artifact": "pictures", "rows": sent})
    assert answer.json()["rows"][0] == pytest.approx(fitted.apply_row({"i": data}))
    assert (
        set(answer.json()["rows"][1].values()) == {None} == set(answer.json()["rows"][2].values())
    )
    refused = post(app, {"artifact": "pictures", "rows": [{"i": "no base64!"}]})
    message = refused.json()["error"]["message"]
    assert (refused.status_code, message) == (
        422,
        "rows[0]: Column 'i' holds text that is no base64.",
    )


def test_pixels_are_counted_before_an_image_is_decoded(settings: Settings, tmp_path: Path) -> None:
    import tracemalloc
    import zlib
    from base64 import b64encode

    from tests.unit.preprocessing.test_transform_images import encoded, picture
    from tests.unit.serving.asgi import OpenGate

    def bomb(side: int) -> str:
        """A white PNG of one bit a pixel, a few kilobytes."""
        lines = zlib.compress((b"\0" + b"\xff" * (side // 8)) * side, 9)
        header = side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"
        parts = [(b"IHDR", header), (b"IDAT", lines), (b"IEND", b"")]
        chunks = [
            len(data).to_bytes(4, "big") + kind + data
            + zlib.crc32(kind + data).to_bytes(4, "big")
            for kind, data in parts
        ]  # fmt: skip
        return b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()

    data = encoded(picture())
    fitted = fit([{"type": "image_statistics", "columns": ["i"]}], pl.DataFrame({"i": [data]}))
    save(fitted, tmp_path / "fitted")
    register(open_registry(settings), fitted, tmp_path / "fitted", "pictures", "production")
    app = GatewayMiddleware(build_features_app(settings), OpenGate("features"), "features")
    white = post(app, {"artifact": "pictures", "rows": [{"i": bomb(2048)}]})
    assert white.json()["rows"][0]["i_brightness"] == 1.0
    tracemalloc.start()
    for rows in ([{"i": bomb(8192)}], [{"i": bomb(2048)}] * 4):
        assert len(str(rows)) < 48_000
        refused = post(app, {"artifact": "pictures", "rows": rows})
        message = refused.json()["error"]["message"]
        assert (refused.status_code, message) == (
            422,
            "The images of a request have more than 16000000 pixels in all.",
        )
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
