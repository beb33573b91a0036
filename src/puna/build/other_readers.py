"""How other programs read a model that Puna wrote: transformers and llama.cpp, where they are installed.

Comes in: a folder or file of our own making, and rows of ids. Goes out: their logits and their tokenizers' ids. Must never happen:
a reader said to have taken part that did not, the network asked, or code of the model's own run.
"""

import ctypes
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.build.parity_text import PROMPTS
from puna.model.config import ModelConfig

_ONE_THREAD = 50_000_000  # parameters: below, llama.cpp's threads spend their time waiting for each other


def why_not_transformers(quantised: bool) -> str | None:
    """None where transformers can read what was written, else what is missing."""
    missing = [
        name for name in ("transformers", *(["compressed_tensors"] if quantised else [])) if find_spec(name) is None
    ]
    return f"{' and '.join(missing)} not installed".replace("_", "-") if missing else None


def why_not_llama_cpp() -> str | None:
    """None where llama.cpp's library can read what was written, else what is missing."""
    return None if find_spec("llama_cpp") else "llama-cpp-python not installed"


@contextmanager
def _silence() -> Iterator[None]:
    """No bars, hints and warnings of other libraries on our screen; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@torch.inference_mode()
def by_transformers(folder: Path, config: ModelConfig, rows: list[list[int]]) -> dict[str, Any]:
    """{"program", "logits": of each row [tokens, vocabulary], "ids": of each prompt}, in fp32 on the CPU."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with _silence():
        import transformers

        # The class by its name, from our own list of architectures; nothing that the folder says chooses it.
        model = getattr(transformers, config.architecture).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
        )
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        logits = [model.eval()(torch.tensor([row])).logits[0] for row in rows]
    return {"program": f"transformers {transformers.__version__}", "logits": logits,
            "ids": [list(tokenizer(text)["input_ids"]) for _, text in PROMPTS]}  # fmt: skip


def by_llama_cpp(path: Path, config: ModelConfig, rows: list[list[int]]) -> dict[str, Any]:
    """{"program", "logits", "ids"} as above, with keys and values cached in fp32."""
    import llama_cpp

    silent = llama_cpp.llama_log_callback(
        lambda level, text, data: None
    )  # it writes to the file descriptor, past Python
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    longest = max(map(len, rows))
    threads = torch.get_num_threads() if config.parameters > _ONE_THREAD else 1
    model = llama_cpp.Llama(
        str(path), n_ctx=longest + 8, n_batch=longest + 8, n_ubatch=longest + 8, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False, n_gpu_layers=0,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False, use_mmap=True,
    )  # fmt: skip
    try:
        logits: list[Tensor] = []
        for row in rows:
            model.reset()
            model.eval(row)
            logits.append(torch.from_numpy(model.scores[: len(row)].copy()))
        ids = [model.tokenize(text.encode(), add_bos=True, special=False) for _, text in PROMPTS]
    finally:
        model.close()
    return {"program": f"llama.cpp {llama_cpp.__version__}", "logits": logits, "ids": ids}
