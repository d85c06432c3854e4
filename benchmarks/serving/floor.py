"""The floor: LMDB and the same packed records behind bare uvicorn, no key, no Ray, no guard.

python -m benchmarks.serving.floor STATE_FOLDER PORT
"""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import uvicorn

from sunloom.feature_store.stores.online.lmdb import EmbeddedStore


def build(folder: Path) -> Any:
    """An ASGI app that reads ``bench`` records and writes them as JSON."""
    store = EmbeddedStore(folder)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            query = parse_qs(scope["query_string"].decode())
            ids = [int(query["entity_id"][0])]
        else:
            ids = orjson.loads((await receive())["body"])["entity_ids"]
        body = orjson.dumps(store.read("bench", ids))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


if __name__ == "__main__":
    uvicorn.run(
        build(Path(sys.argv[1])),
        port=int(sys.argv[2]),
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
