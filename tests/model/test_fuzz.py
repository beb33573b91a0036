"""Readers of strangers' files against changed bytes: `PunaError` or a whole model, nothing else.

Comes in: small valid files of each format that this room reads, and changes that hypothesis thinks of. The long run is bench/fuzz_readers.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import open_model, write_huggingface
from puna.model.formats.gguf_write import write_gguf
from puna.model.formats.llama2c_write import write_llama2c
from puna.model.formats.quantised_write import write_quantised
from puna.model.weights import Weights

_CONFIG = ModelConfig(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=8, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)  # fmt: skip
# (name, how it is written, the file that is changed)
_FORMATS: dict[str, tuple[Callable[[Weights, Path], object], str]] = {
    "safetensors": (write_huggingface, "model.safetensors"),
    "config": (write_huggingface, "config.json"),
    "int4": (lambda weights, home: write_quantised(weights, home, bits=4), "model.safetensors"),
    "llama2c": (lambda weights, home: write_llama2c(weights, home / "m.bin", version=1), "m.bin"),
    "llama2c int8": (lambda weights, home: write_llama2c(weights, home / "m.bin", version=2), "m.bin"),
    "gguf": (lambda weights, home: write_gguf(weights, home / "m.gguf", kind="Q8_0", tokenizer={}), "m.gguf"),
}
_WORDS = st.sampled_from([0, 1, 2**16, 2**24, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1])
# (where, in the first bytes rather than anywhere; what stands there then; how many bytes of the old are taken out)
_CHANGE = st.tuples(st.integers(0, 1500), st.one_of(st.binary(max_size=9), _WORDS.map(lambda word: word.to_bytes(8, "little"))),
                    st.integers(0, 9))  # fmt: skip


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    model = Decoder(_CONFIG)
    model.init_weights(0)
    found = {}
    for name, (write, _) in _FORMATS.items():
        found[name] = tmp_path_factory.mktemp("fuzz")
        if name == "gguf":
            pytest.importorskip("gguf")
        write(Weights.of(model), found[name])
    return found


@pytest.mark.parametrize("name", _FORMATS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(_CHANGE, min_size=1, max_size=3), cut=st.one_of(st.none(), st.integers(0, 2000)))
def test_a_changed_file_is_refused_or_read_whole(
    name: str, homes: dict[str, Path], changes: list[tuple[int, bytes, int]], cut: int | None
) -> None:
    path = homes[name] / _FORMATS[name][1]
    whole = path.read_bytes()
    data = whole
    for place, put, taken in changes:
        data = data[:place] + put + data[place + taken :]
    path.write_bytes(data[:cut])
    try:
        weights = open_model(homes[name])
        for tensor, values in weights.items():
            assert tuple(values.shape) == weights.config.shapes[tensor] and torch.isfinite(values.float()).all()
        weights.decoder()
    except PunaError:
        pass
    finally:
        path.write_bytes(whole)
