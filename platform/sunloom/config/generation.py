"""The recipe of a batch generation: from a Parquet file of prompts to one of answers."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings


class Sampling(Model):
    """How answers are drawn."""

    max_tokens: int = Field(default=256, ge=1)
    """Longest answer, tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the likeliest tokens that are drawn from."""
    top_k: int = Field(default=0, ge=0)
    """Number of the likeliest tokens that are drawn from; 0 is all."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    seed: int | None = None
    """Makes draws repeatable: each row has a seed of its own, whatever runs beside it."""
    json_schema: Path | None = None
    """File with a JSON schema that every answer follows."""


class BatchGeneration(Model):
    """What is answered by whom, and where the answers go."""

    model: str
    """``name``, ``name@3`` or ``name@alias`` of a base model or an adapter in the registry, a
    folder, or a hub id."""
    input: Path
    """Parquet file, or a folder of them."""
    output: Path
    """Folder of the answers, a Parquet file for each block."""
    column: str | None = None
    """Column of the prompts. Texts are continued as they are; lists of OpenAI messages, or JSON of
    them, are rendered with the model's chat template, and a column ``tools`` beside them. If
    empty, ``messages`` or else ``prompt``."""
    sampling: Sampling = Sampling()
    """How answers are drawn."""
    block_rows: int = Field(default=1024, ge=1)
    """Rows that are written at once: what a killed run has lost at most, for each engine."""
    engines: int = Field(default=1, ge=1)
    """Engines at most, each an actor."""
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    """Share of rows without a usable prompt from which on the run fails."""


class GenerationRecipe(Settings):
    """Answers many prompts; ``serving.llm`` has the engine's settings."""

    generation: BatchGeneration
    """What is answered."""
