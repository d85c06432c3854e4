"""The shipped base model's recipe, trained for some steps, has the losses of its record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sunloom.config import load_config
from sunloom.config.llm import LlmRecipe
from sunloom.llm.conversations import load_conversation_source
from sunloom.llm.distributed import TorchParallel
from sunloom.llm.encoding import collate, encode
from sunloom.llm.models import build_llama
from sunloom.llm.optimization import CausalLoss, learning_rate
from sunloom.llm.tokenizer import build_tokenizer, conversation_texts
from sunloom_retail.base_model import RECIPE, read_record

pytestmark = pytest.mark.integration

CONF = Path(__file__).parents[2] / "conf"
STEPS = 6


def test_the_recipe_begins_with_the_recorded_losses() -> None:
    """The whole run's tokenizer, starting weights, batches and schedule, in one process."""
    path = CONF.parent / RECIPE
    recipe = load_config(LlmRecipe, recipe=path, conf_dir=CONF, environ={}).config
    training, shape, record = recipe.training, recipe.model.architecture, read_record()
    conversations = load_conversation_source(recipe.data.conversations).train(
        training.max_steps * training.conversations_a_step, recipe.seed
    )
    samples = conversations[: shape.tokenizer_conversations]
    tokenizer = build_tokenizer(conversation_texts(samples), shape.vocabulary, shape.max_length)
    model = build_llama(shape, tokenizer, recipe.seed)
    parallel = TorchParallel(CausalLoss(model, torch.float32), training)
    losses = []
    for step, batch in enumerate(record.first_batches[:STEPS]):
        rows = encode(tokenizer, [conversations[i] for i in batch], recipe.data.max_length)
        ids, labels = map(torch.from_numpy, collate(rows, tokenizer.pad_token_id))
        labelled = sum(int(row.mask[1:].sum()) for row in rows)
        total = parallel.add_gradient(ids, labels, scales=[1 / labelled], is_last=True)
        losses.append(total.item() / labelled)
        parallel.step(learning_rate(step, training))
    # Another CPU's kernels, and sums over one worker instead of two, move them by less.
    assert losses == pytest.approx(record.losses[:STEPS], rel=2e-3)
    assert len(set(record.losses[:STEPS])) == STEPS
