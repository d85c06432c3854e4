"""A trained tabular model: a folder of text files, and predictions from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sunloom.core.files import write_atomic
from sunloom.data.arrays import FloatArray
from sunloom.errors import ArtifactError, DataError
from sunloom.tabular.algorithms import FittedModel, load_algorithm
from sunloom.tabular.columns import Columns

MANIFEST = "model.json"
FORMAT = 1


@dataclass(frozen=True)
class TabularModel:
    """A binary classifier with its columns, labels and threshold.

    Attributes:
        algorithm: Name of the algorithm.
        parameters: Hyperparameters that it was fitted with.
        columns: Inputs and derived columns.
        fitted: The classifier.
        labels: Names of the outcomes 0 and 1.
        threshold: Probability from which the prediction is ``labels[1]``.
        about: The rows that it was trained on.
    """

    algorithm: str
    parameters: Mapping[str, Any]
    columns: Columns
    fitted: FittedModel
    labels: tuple[str, str]
    threshold: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns that a row must have, in order."""
        return self.columns.features

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        """Probability of label 1 for each row; null is a missing value.

        Raises:
            DataError: A column is missing or not numeric.
        """
        matrix = self.columns.matrix(frame)
        return self.fitted.predict(matrix) if len(matrix) else np.empty(0)

    def label(self, probability: float) -> str:
        """The outcome's name for a probability."""
        return self.labels[int(probability >= self.threshold)]

    def save(self, folder: Path) -> Path:
        """Write manifest and classifier as text files."""
        algorithm = load_algorithm(self.algorithm)
        file = f"{self.algorithm}.{algorithm.suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / file, self.fitted.dump())
        manifest = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "parameters": dict(self.parameters),
            "classifier": file,
            "columns": asdict(self.columns),
            "labels": list(self.labels),
            "threshold": self.threshold,
            "about": dict(self.about),
        }
        # After the classifier: a folder with a manifest is whole.
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1))
        return folder


def load_model(path: Path | str) -> TabularModel:
    """Read a model's folder; nothing in it is executed.

    Raises:
        ArtifactError: The folder holds no tabular model, or a damaged one.
        NotFoundError: Its algorithm is a plugin that is not installed.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        algorithm = load_algorithm(manifest["algorithm"])
        # Only a file of the folder itself, whatever the manifest says.
        text = (folder / Path(manifest["classifier"]).name).read_text()
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']} is not {FORMAT}")
        return TabularModel(
            algorithm=manifest["algorithm"],
            parameters=manifest["parameters"],
            columns=Columns.from_dict(manifest["columns"]),
            fitted=algorithm.load(text),
            labels=(manifest["labels"][0], manifest["labels"][1]),
            threshold=float(manifest["threshold"]),
            about=manifest["about"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder} holds no whole tabular model: {type(error).__name__}: {error}",
            "Train again with `sunloom tabular train`, or take another version.",
        ) from error


@dataclass(frozen=True)
class Prediction:
    """A prediction for one row.

    Attributes:
        entity_id: None where the rows name no entity.
        probability: Of the second label.
        prediction: The label.
    """

    entity_id: Any
    probability: float
    prediction: str


def predictions(
    model: TabularModel, rows: pl.DataFrame | Sequence[Mapping[str, Any]], entity: str = "id"
) -> list[Prediction]:
    """Predictions in the order of the rows, for a person or an agent to read.

    Args:
        model: The model.
        rows: A frame or a list of rows with the model's features.
        entity: Column that names the entity; ``entity_id`` counts too, and None where neither is.

    Raises:
        DataError: A feature is missing, or the rows do not form a table.
    """
    if not isinstance(rows, pl.DataFrame):
        try:
            # Polars would take the types from the first 100 rows, and refuse a later float among
            # integers.
            rows = pl.DataFrame([dict(row) for row in rows], infer_schema_length=None)
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise DataError(f"The rows do not form a table: {error}", param="rows") from error
    key = next((name for name in (entity, "entity_id") if name in rows.columns), None)
    entities = rows[key].to_list() if key else [None] * rows.height
    return [
        Prediction(entity_id=name, probability=float(value), prediction=model.label(float(value)))
        for name, value in zip(entities, model.predict(rows), strict=True)
    ]
