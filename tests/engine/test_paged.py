"""The paged pass and the decoder's own forward are the same function, for every kind of config, cut and place in the cache."""

import random
from functools import partial
from typing import Any

import pytest
import torch

from puna.engine.linears import PRECISIONS, Precision, rows_to_int8
from puna.engine.looks import Reading, Rows, looks_of
from puna.engine.paged import Reader
from puna.engine.replay import Replay
from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.rope import RopeScaling

KINDS = {
    "llama": {},
    "one key-value head": {"num_key_value_heads": 1},
    "as many as heads": {"num_key_value_heads": 4},
    "qk_norm": {"qk_norm": True},
    "bias": {"attention_bias": True},
    "sliding window": {"sliding_window": 5},
    "tied": {"tie_word_embeddings": True},
    "scaled rope": {"rope_scaling": RopeScaling(rope_type="linear", factor=4.0)},
}
SIZE = 4  # tokens of a block of torch's reader here: many blocks for little text
BACKENDS = ["torch", "openvino"]


def a_reader(backend: str, model: Decoder, precision: Precision = "fp32") -> Any:
    if backend == "torch":
        reader = Reader(model, precision)
        reader.cache = partial(reader.cache, size=SIZE)  # type: ignore[method-assign]
        return reader
    pytest.importorskip("openvino")
    from puna.engine.openvino import OpenVINOReader

    if model.config.sliding_window is not None:
        with pytest.raises(PunaError, match="sliding window"):
            OpenVINOReader(model, precision)
        pytest.skip("OpenVINO's kernel is not used for a sliding window")
    return OpenVINOReader(model, precision)


def a_model(kind: str = "llama") -> Decoder:
    values = {
        "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    }  # fmt: skip
    model = Decoder(ModelConfig(**(values | KINDS[kind])))
    model.init_weights(seed=5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases and gains that do something
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def texts_of(count: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(60) for _ in range(draw.randrange(3, 40))] for _ in range(count)]


def read_in_parts(
    reader: Any, texts: list[list[int]], tables: list[list[int]], seed: int, parts: list[int]
) -> list[torch.Tensor]:
    """All texts, some ids of each at a time, beside each other: logits after every id."""
    draw, cache = random.Random(seed), reader.cache(64)
    at, got = [0] * len(texts), [[] for _ in texts]
    while any(place < len(text) for place, text in zip(at, texts, strict=True)):
        readings, who = [], []
        for number, text in enumerate(texts):
            ids = text[at[number] : at[number] + draw.choice(parts)]
            if ids:
                readings.append(Reading(ids, at[number], tables[number], len(ids)))
                who.append(number)
                at[number] += len(ids)
        out = reader(readings, cache).split([len(one.ids) for one in readings])
        for number, logits in zip(who, out, strict=True):
            got[number].append(logits)
    return [torch.cat(one) for one in got]


def scattered(texts: list[list[int]]) -> list[list[int]]:
    """Some in neighbouring blocks, some not."""
    free, tables = list(range(64)), []
    for number, text in enumerate(texts):
        needed = -(-len(text) // SIZE)
        tables.append([free.pop(0 if number % 2 else -1 - place % 2 * (len(free) // 2)) for place in range(needed)])
    return tables


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_cut_in_any_blocks_gives_the_decoders_logits(kind: str, backend: str):
    model, texts = a_model(kind), texts_of(6)
    reader = a_reader(backend, model)
    with torch.inference_mode():
        wanted = [model.logits(model(torch.tensor([text])))[0] for text in texts]
    for seed, parts in ((1, [1]), (2, [1, 1, 2, 7]), (3, [40])):
        got = read_in_parts(reader, texts, scattered(texts), seed, parts)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", ["llama", "one key-value head", "qk_norm"])
def test_rows_at_equal_distances_go_together_and_gaps_do_no_harm(kind: str):
    model, texts = a_model(kind), [text[:32] for text in texts_of(5, seed=4)]
    tables = [
        list(range(10 * place, 10 * place + 8)) for place in (5, 0, 1, 4, 2)
    ]  # in no order, and one place stays empty
    readings = [Reading([1], 8, table, 1) for table in tables]
    cache = Reader(model).cache(64, SIZE)
    assert any(isinstance(look, Rows) for look in looks_of(readings, cache, None))
    with torch.inference_mode():
        wanted = [model.logits(model(torch.tensor([text])))[0] for text in texts]
    for one, other in zip(read_in_parts(a_reader("torch", model), texts, tables, 1, [1]), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=5e-6)


def test_no_number_of_a_neighbour_reaches_a_text_through_the_mask():
    """A text whose keys are NaN, beside another in one strided view: the other's logits are what they are alone."""
    model = a_model()
    reader, cache = Reader(model), Reader(model).cache(64, SIZE)
    tables, texts = [list(range(8)), list(range(8, 16)), list(range(16, 24))], texts_of(3, seed=2)
    for table, text in zip(tables, texts, strict=True):
        reader([Reading(text[:20], 0, table, 1)], cache)
    readings = [Reading([7], len(text[:20]), table, 1) for table, text in zip(tables, texts, strict=True)]
    alone = reader(readings[:1], cache)
    for store in (*cache.k, *cache.v):
        store[8 * SIZE : 16 * SIZE] = float("nan")
    together = reader(readings, cache)
    assert isinstance(looks_of(readings, cache, None)[0], Rows)
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=5e-6)
    assert not together[1].isfinite().any()
    cache.clear(tables[1])
    assert all(store.isfinite().all() for store in (*cache.k, *cache.v))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_wanted_places_are_computed_and_they_are_the_same(backend: str):
    model, text = a_model(), texts_of(1)[0]
    reader = a_reader(backend, model)
    every = reader([Reading(text, 0, range(16), len(text))], reader.cache(32))
    last = reader([Reading(text, 0, range(16), 1)], reader.cache(32))
    none = reader([Reading(text, 0, range(16), 0), Reading(text[:3], 0, range(16, 32), 2)], reader.cache(32))
    assert reader([Reading(text, 0, range(16), 0)], reader.cache(32)).shape == (0, 60)
    torch.testing.assert_close(last[0], every[-1], rtol=0, atol=5e-6)
    torch.testing.assert_close(none, every[1:3], rtol=0, atol=5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_coarser_weights_say_nearly_the_same(precision: Precision, backend: str):
    model, texts = a_model(), texts_of(5)
    with torch.inference_mode():
        wanted = [model.logits(model(torch.tensor([text])))[0] for text in texts]
    spread = torch.cat(wanted).std()
    got = read_in_parts(a_reader(backend, model, precision), texts, scattered(texts), 1, [1, 2, 5])
    error = max(float((one - other).abs().max()) for one, other in zip(got, wanted, strict=True)) / float(spread)
    assert error < {"fp32": 1e-5, "bf16": 0.15, "int8": 0.25}[precision]
    assert (error > 1e-4) == (precision != "fp32")


def test_the_fused_weights_are_the_decoders_own_and_are_fused_once():
    model = a_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = Reader(model), Reader(model)
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.weight.untyped_storage().data_ptr() == attention.v_proj.weight.untyped_storage().data_ptr()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    ids = texts_of(1)[0]
    reading = [Reading(ids, 0, range(16), 1)]
    assert torch.equal(first(reading, first.cache(16, SIZE)), second(reading, second.cache(16, SIZE)))
    assert first._layers[0].qkv._weight.data_ptr() == second._layers[0].qkv._weight.data_ptr()  # type: ignore[attr-defined]


def test_rows_are_rounded_each_by_itself():
    rows = torch.tensor([[1.0, -2.0, 0.5], [100.0, 0.0, -3.0], [0.0, 0.0, 0.0]])
    codes, steps = rows_to_int8(rows)
    assert codes.tolist() == [[64, -127, 32], [127, 0, -4], [0, 0, 0]]
    torch.testing.assert_close((codes * steps)[:2], rows[:2], rtol=0.01, atol=0.4)
    assert torch.equal(rows_to_int8(rows[1:2])[0][0], codes[1])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["llama", "qk_norm", "sliding window", "bias"])
def test_the_step_that_a_gpu_replays_is_the_same_step(kind: str, compiled: bool):
    """Without a GPU: the padded function itself, not its capture."""
    model, texts = a_model(kind), texts_of(5, seed=3)
    reader, caches = Reader(model), [Reader(model).cache(65, SIZE) for _ in range(2)]
    tables = scattered(texts)
    for cache in caches:
        reader(
            [Reading(text[:-3], 0, table, 1) for text, table in zip(texts, tables, strict=True) if len(text) > 3], cache
        )
    replay = Replay(reader, caches[1], graphs=False, compiled=compiled)
    for back in (3, 2, 1):
        for chosen in (texts, texts[:3], texts[:1]) if back == 1 else (texts,):
            readings = [Reading([text[-back]], len(text) - back, tables[texts.index(text)], 1) for text in chosen]
            torch.testing.assert_close(replay(readings), reader.hidden(readings, caches[0]), rtol=0, atol=5e-6)
    held = {place for table in tables for block in table for place in range(block * SIZE, (block + 1) * SIZE)}
    for one, other in zip((*caches[0].k, *caches[0].v), (*caches[1].k, *caches[1].v), strict=True):
        changed = {int(place) for place in (one != other).flatten(1).any(1).nonzero()}
        assert changed <= held | set(range(64 * SIZE, 65 * SIZE)), "a padded row wrote where a text's keys are"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_a_captured_step_is_the_same_step():
    model, texts = a_model().to("cuda"), [text[:8] for text in texts_of(5, seed=3)]
    reader = Reader(model)
    caches, tables = [reader.cache(64, SIZE) for _ in range(2)], [list(range(9 * row, 9 * row + 9)) for row in range(5)]
    for cache in caches:
        reader([Reading(text, 0, table, 1) for text, table in zip(texts, tables, strict=True)], cache)
    plain = Replay(reader, caches[1], graphs=False)
    for step in range(3):
        readings = [Reading([step + 1], len(text) + step, table, 1) for text, table in zip(texts, tables, strict=True)]
        torch.testing.assert_close(reader.hidden(readings, caches[0]), plain(readings), rtol=0, atol=1e-5)
