"""The readers that bench/fuzz_readers.py tries, each with valid files to begin from.

Comes in: a folder to make seeds in. Goes out: for each reader the files it wants, their kinds, seeds, and a function that opens
them and uses all that was opened. That function may raise `PunaError` and nothing else.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fuzz_mutators import _protobuf, _varint
from puna.errors import PunaError
from puna.model import adapter_files, adapters
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import gguf as gguf_model
from puna.model.formats import open_model, quantised, safetensors_header, write_huggingface  # noqa: F401  instrumented
from puna.model.formats.gguf_write import write_gguf
from puna.model.formats.llama2c import open_llama2c
from puna.model.formats.llama2c_write import write_llama2c
from puna.model.formats.quantised_write import write_quantised
from puna.model.weights import Weights
from puna.tokens.formats import gguf as gguf_tokens
from puna.tokens.formats import open_tokenizer, tiktoken_ranks
from puna.tokens.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TEXTS = ("Once upon a time, 3 cats  didn't sleep.\n\tHello <s> </s> <|im_end|>!", "从前有三只猫，它们不睡觉。你好😀 ﷺ")
TINY = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
KINDS: tuple[dict[str, Any], ...] = (
    {}, {"tie_word_embeddings": True}, {"attention_bias": True}, {"qk_norm": True}, {"sliding_window": 16},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 16}},
)  # fmt: skip
PEFT = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "use_dora": False, "use_rslora": False, "bias": "none",
        "target_modules": ["q_proj", "up_proj"], "lora_dropout": 0.1, "init_lora_weights": True, "rank_pattern": {},
        "alpha_pattern": {}}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """`files`: name -> the kind of its contents (`fuzz_mutators.MUTATORS`). `seeds(folder)`: valid file sets. `use(folder)`: read all."""

    files: dict[str, str]
    seeds: Callable[[Path], Iterator[list[bytes]]]
    use: Callable[[Path], None]


class Wrong(Exception):
    """A reader that gave something other than it promises."""


def tiny(number: int = 0, **others: Any) -> Weights:
    """A random model."""
    model = Decoder(ModelConfig(**{**TINY, **KINDS[number], **others}))
    model.init_weights(number)
    return Weights.of(model)


def read_all(weights: Weights) -> None:
    """Every tensor, twice: by itself, and into a decoder."""
    for name, tensor in weights.items():
        if tuple(tensor.shape) != weights.config.shapes[name]:
            raise Wrong(f"{name} has shape {tuple(tensor.shape)}")
        if not torch.isfinite(tensor.float()).all() and tensor.dtype != torch.float64:
            raise Wrong(f"{name} is not finite")
    weights.decoder()


def encode_all(tokenizer: Tokenizer) -> None:
    """English and Chinese text to ids and back, and the bytes of every id."""
    for text in TEXTS:
        ids = tokenizer.encode(text)
        if any(not 0 <= token < tokenizer.vocab_size for token in ids):
            raise Wrong("an id lies outside the vocabulary")
        tokenizer.decode(ids)
        tokenizer.text_bytes(ids)
    if not all(0 <= token < tokenizer.vocab_size for token in {*tokenizer.stop_ids, *tokenizer.special_ids}):
        raise Wrong("a special id lies outside the vocabulary")


def _files(folder: Path, names: list[str]) -> list[bytes]:
    return [(folder / name).read_bytes() if (folder / name).exists() else b"" for name in names]


def _write_peft(weights: Weights, folder: Path, dora: bool) -> None:
    model = weights.decoder()
    adapter = adapters.Adapter.of({"kind": "dora" if dora else "lora", "rank": 4, "alpha": 8.0, "targets": ("q_proj", "up_proj"),
                                   "rslora": dora}, "seed")  # fmt: skip
    adapters.attach(model, adapter, seed=0)
    adapter_files.save_adapter(model, adapter, folder, "base")


def _folders(folder: Path) -> Iterator[list[bytes]]:
    for number in range(len(KINDS)):
        write_huggingface(tiny(number), folder / f"m{number}", dtype=torch.bfloat16 if number % 2 else None)
        yield _files(folder / f"m{number}", ["config.json", "model.safetensors"])


def _sharded(folder: Path) -> Iterator[list[bytes]]:
    for number, tied in enumerate((False, True)):
        home = folder / f"s{number}"
        write_huggingface(tiny(tie_word_embeddings=tied), home, shard_bytes=26_000)
        index = json.loads((home / "model.safetensors.index.json").read_bytes())
        names = sorted(set(index["weight_map"].values()))
        short = {name: f"{'abcdefgh'[place]}.safetensors" for place, name in enumerate(names)}
        index["weight_map"] = {tensor: short[name] for tensor, name in index["weight_map"].items()}
        parts = _files(home, ["config.json", *names])
        yield [parts[0], json.dumps(index).encode(), *(parts[1:] + [b""] * 4)[:4], b""]
        lines = {
            name: {"bytes": len(part), "sha256": "0" * 64}
            for name, part in zip(["config.json", *short.values()], parts, strict=True)
        }
        yield [
            parts[0],
            json.dumps(index).encode(),
            *(parts[1:] + [b""] * 4)[:4],
            json.dumps({"files": lines}).encode(),
        ]


def _quantised(folder: Path) -> Iterator[list[bytes]]:
    for number, bits in ((0, 8), (1, 4), (2, 4)):
        write_quantised(tiny(number), folder / f"q{number}", bits=bits)
        yield _files(folder / f"q{number}", ["config.json", "model.safetensors"])


def _llama2c(folder: Path) -> Iterator[list[bytes]]:
    real = DATA / "weights/stories260K/stories260K.bin"
    if real.exists():
        yield [real.read_bytes()]
        cut = open_llama2c(real)
        config = cut.config.model_copy(update={"num_hidden_layers": 1})
        for version in (0, 1, 2):
            write_llama2c(Weights(config, cut.read), folder / f"r{version}.bin", version=version)
            yield _files(folder, [f"r{version}.bin"])
    for version in (0, 1, 2):
        for tied in (False, True):
            write_llama2c(tiny(tie_word_embeddings=tied), folder / f"l{version}.bin", version=version)
            yield _files(folder, [f"l{version}.bin"])


def _ggufs(folder: Path) -> Iterator[list[bytes]]:
    for number in range(len(KINDS)):
        for kind in ("F32", "Q8_0", "Q4_0") if number < 2 else ("BF16",):
            write_gguf(tiny(number), folder / "m.gguf", kind=kind, tokenizer={})
            yield _files(folder, ["m.gguf"])


def _gguf_tokenizers(folder: Path) -> Iterator[list[bytes]]:
    for number, name in enumerate(("tok512.bin", "tokenizer.json")):
        makers = (_llama2c_tokenizers, _tokenizer_jsons)
        for parts in makers[number](folder):
            (folder / name).write_bytes(parts[0])
            tokenizer = open_tokenizer(folder / name)
            small = tiny(vocab_size=tokenizer.vocab_size, hidden_size=8, num_attention_heads=1, num_key_value_heads=1,
                         num_hidden_layers=1, bos_token_id=None, eos_token_id=None)  # fmt: skip
            write_gguf(small, folder / "t.gguf", kind="F16", tokenizer=gguf_tokens.gguf_tokenizer_fields(tokenizer))
            yield _files(folder, ["t.gguf"])
            break


def _adapters(folder: Path) -> Iterator[list[bytes]]:
    for dora in (False, True):
        _write_peft(tiny(), folder / f"a{dora}", dora)
        parts = _files(folder / f"a{dora}", ["adapter_config.json", "adapter_model.safetensors"])
        yield parts
    yield [json.dumps(PEFT).encode(), parts[1]]


def _tokenizer_jsons(folder: Path) -> Iterator[list[bytes]]:
    source = DATA / "tokenizers/minimind6400"
    if source.exists():
        value = json.loads((source / "tokenizer.json").read_bytes())
        vocab = {entry: token for entry, token in value["model"]["vocab"].items() if token < 500}
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in value["model"]["merges"]]
        value["model"] |= {"vocab": vocab, "merges": [pair for pair in pairs if {*pair, "".join(pair)} <= vocab.keys()]}
        value["added_tokens"] = [token for token in value["added_tokens"] if token["id"] < 500]
        config = (source / "tokenizer_config.json").read_bytes()
        yield [json.dumps(value, ensure_ascii=False).encode(), config]
    home = DATA / "weights/stories260K/tok512.bin"
    if home.exists():
        open_tokenizer(home).save(folder / "saved")
        yield _files(folder / "saved", ["tokenizer.json", "tokenizer_config.json"])
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers

    for model in (models.WordLevel({"Once": 0, "upon": 1, "[UNK]": 2}, unk_token="[UNK]"),
                  models.Unigram([("<unk>", 0.0), ("a", -1.0), ("猫", -2.0), ("▁", -3.0)], 0, True),
                  models.WordPiece({"[UNK]": 0, "on": 1, "##ce": 2}, unk_token="[UNK]")):  # fmt: skip
        backend = Backend(model)
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(" ", "▁"), normalizers.Prepend("▁")]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("猫", "isolated"), pre_tokenizers.Digits(True)]
        )
        yield [backend.to_str().encode(), b'{"bos_token": {"content": "Once"}, "add_bos_token": true}']


def _sentencepieces(folder: Path) -> Iterator[list[bytes]]:
    source = DATA / "tokenizers/llama2_spm32k/tokenizer.model"
    if not source.exists():
        return
    fields = _protobuf(source.read_bytes())
    pieces = [field for field in fields if field[0] >> 3 == 1]
    texts = [dict(_protobuf(field[1]))[10].decode() for field in pieces]
    letters = {letter for text in texts[259:600] for letter in text}
    kept = pieces[:600] + [field for field, text in zip(pieces[600:], texts[600:], strict=True) if text in letters]
    out = b""
    for key, value in [*kept, *(field for field in fields if field[0] >> 3 != 1)]:
        out += _varint(key) + _varint(len(value)) + value
    config = json.dumps(
        {"bos_token": "<s>", "added_tokens_decoder": {"0": {"content": "<unk>", "special": True}}}
    ).encode()
    yield [out, b"", b""]
    yield [out, config, json.dumps({"<extra>": len(kept), "<|im_end|>": len(kept) + 1}).encode()]


def _tiktokens(folder: Path) -> Iterator[list[bytes]]:
    tiktoken_ranks._RANKS_OF_LLAMA3 = 300  # else nothing behind the check of the number is ever reached
    source = DATA / "tokenizers/llama3_tiktoken/tokenizer.model"
    if source.exists():
        yield [b"\n".join(source.read_bytes().split(b"\n")[:300]) + b"\n"]
    else:
        ranks = [bytes([byte]) for byte in range(256)] + [bytes([97, 97 + place]) for place in range(44)]
        yield [b"".join(base64.b64encode(entry) + b" %d\n" % rank for rank, entry in enumerate(ranks))]


def _llama2c_tokenizers(folder: Path) -> Iterator[list[bytes]]:
    for name in ("stories260K", "aidreams260K"):
        if (DATA / "weights" / name / "tok512.bin").exists():
            yield _files(DATA / "weights" / name, ["tok512.bin"])


def _vocab_merges(folder: Path) -> Iterator[list[bytes]]:
    source = DATA / "tokenizers/gpt-2"
    if source.exists():
        vocab = {
            entry: token for entry, token in json.loads((source / "vocab.json").read_bytes()).items() if token < 400
        }
        merges = [
            line for line in (source / "merges.txt").read_text("utf-8").split("\n") if line and not line.startswith("#")
        ][:144]
        parts = [json.dumps(vocab).encode(), "\n".join(merges).encode(), (source / "info.json").read_bytes(), b"", b""]
        yield parts
        config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "added_tokens_decoder":
                  {"400": {"content": "<|endoftext|>", "special": True}, "401": {"content": "<tool>", "special": False}}}  # fmt: skip
        yield [*parts[:2], b"", json.dumps(config).encode(), json.dumps({"<tool>": 401}).encode()]


_base = tiny()
JSON, ST = "json", "safetensors"
_shards = {f"{letter}.safetensors": ST for letter in "abcd"}
TARGETS: dict[str, Target] = {
    "huggingface": Target({"config.json": JSON, "model.safetensors": ST}, _folders, lambda folder: read_all(open_model(folder))),
    "sharded": Target({"config.json": JSON, "model.safetensors.index.json": JSON, **_shards, "MANIFEST.json": JSON}, _sharded,
                      lambda folder: read_all(open_model(folder))),
    "quantised": Target({"config.json": JSON, "model.safetensors": ST}, _quantised, lambda folder: read_all(open_model(folder))),
    "adapter": Target({"adapter_config.json": JSON, "adapter_model.safetensors": ST}, _adapters,
                      lambda folder: read_all(adapter_files.merge_adapter(_base, folder))),
    "llama2c": Target({"model.bin": "bytes"}, _llama2c, lambda folder: read_all(open_model(folder / "model.bin"))),
    "gguf": Target({"model.gguf": "gguf"}, _ggufs, lambda folder: read_all(gguf_model.open_gguf(folder / "model.gguf"))),
    "gguf tokenizer": Target({"model.gguf": "gguf"}, _gguf_tokenizers, lambda folder: encode_all(open_tokenizer(folder / "model.gguf"))),
    "tokenizer.json": Target({"tokenizer.json": JSON, "tokenizer_config.json": JSON}, _tokenizer_jsons,
                             lambda folder: encode_all(open_tokenizer(folder))),
    "sentencepiece": Target({"tokenizer.model": "protobuf", "tokenizer_config.json": JSON, "added_tokens.json": JSON}, _sentencepieces,
                            lambda folder: encode_all(open_tokenizer(folder))),
    "tiktoken": Target({"tokenizer.model": "lines"}, _tiktokens, lambda folder: encode_all(open_tokenizer(folder))),
    "llama2c tokenizer": Target({"tokenizer.bin": "entries"}, _llama2c_tokenizers, lambda folder: encode_all(open_tokenizer(folder))),
    "vocab merges": Target({"vocab.json": JSON, "merges.txt": "lines", "info.json": JSON, "tokenizer_config.json": JSON,
                            "added_tokens.json": JSON}, _vocab_merges, lambda folder: encode_all(open_tokenizer(folder))),
}  # fmt: skip


def outcome(target: Target, folder: Path) -> BaseException | None:
    """What came out of reading the files in `folder`, None where all went well. A `PunaError` must be one printable line."""
    try:
        target.use(folder)
    except PunaError as error:
        line = error.line()
        if len(line) <= 40_000 and line.isprintable():
            return error
        return Wrong(f"no printable line in {len(line)} letters: {line[:200]!a}").with_traceback(error.__traceback__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of Rust's is no Exception
        return error
    return None
