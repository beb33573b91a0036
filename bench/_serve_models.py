"""The models that the serving benches measure: random weights, seeded, written once and converted from there for every peer.

In: a size's name. Out: a folder with `hf/` (by Puna's own writer), `f16.gguf`, `q8_0.gguf` (by Puna's converter).
Must never happen: two engines that measure different weights.

The weights are wide enough that each layer changes the text's course: with the narrow ones that training begins with, a tied
head answers every token with itself, which flatters whoever guesses ahead. The special tokens' rows are zero, so that they are
never the likeliest and no reply ends early. Every number fits 16 bits, so that a file of those holds the same weights.
"""

import json
from pathlib import Path
from typing import Any

#         dim  layers heads kv   ffn   vocab
SHAPES = {
    "test": (64, 2, 4, 2, 160, 1024),
    "15M": (288, 6, 6, 6, 768, 32000),
    "60M": (640, 11, 10, 5, 1728, 16384),
}
EMBEDDING_STD = 0.05
GGUF = {"f16": "F16", "q8_0": "Q8_0"}


def make(size: str, folder: Path, context: int, *, gguf: bool = True, chat: bool = False) -> dict[str, Any]:
    """Write the model of this size into `folder`, unless it is there: {"parameters", "vocab", "context"}. `chat`: with a chat format."""
    facts = folder / "facts.json"
    if not facts.exists():
        import torch

        from puna.model.config import ModelConfig
        from puna.model.decoder import Decoder
        from puna.model.formats import write_huggingface
        from puna.model.weights import Weights
        from puna.tokens.special import SPECIALS

        dim, layers, heads, kv, ffn, vocab = SHAPES[size]
        config = ModelConfig(vocab_size=vocab, hidden_size=dim, intermediate_size=ffn, num_hidden_layers=layers,
                             num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim // heads,
                             max_position_embeddings=context, tie_word_embeddings=True, eos_token_id=0)  # fmt: skip
        model, draws = Decoder(config), torch.Generator().manual_seed(20251128)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 2:
                    std = EMBEDDING_STD if "embed" in name else weight.shape[1] ** -0.5
                    weight.normal_(0.0, std, generator=draws)
                if "embed" in name:
                    weight[: len(SPECIALS)] = 0.0
                weight.copy_(weight.half())
        write_huggingface(Weights.of(model), folder / "hf", dtype=torch.float32)
        _write_tokenizer(folder / "hf", vocab, context, chat)
        told = {"parameters": config.parameters, "vocab": vocab, "context": context}
        facts.write_text(json.dumps(told))
    if gguf:
        _convert(folder)
    return json.loads(facts.read_text())  # type: ignore[no-any-return]


def adopt(release: Path, folder: Path, *, gguf: bool = True) -> dict[str, Any]:
    """A real release (a Hugging Face folder) in the place of a made one: the same facts."""
    from puna.model.formats import load_config

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "hf").exists():
        (folder / "hf").symlink_to(release.resolve(), target_is_directory=True)
    config = load_config(release)
    if gguf:
        _convert(folder)
    return {"parameters": config.parameters, "vocab": config.vocab_size, "context": config.max_position_embeddings}


def _convert(folder: Path) -> None:
    """The GGUF files, from the very folder that the others read."""
    from puna.model.formats import open_model
    from puna.model.formats.gguf_write import write_gguf
    from puna.tokens.formats import open_tokenizer
    from puna.tokens.formats.gguf import gguf_tokenizer_fields

    for name, kind in GGUF.items():
        if not (folder / f"{name}.gguf").exists():
            fields = gguf_tokenizer_fields(open_tokenizer(folder / "hf"))
            write_gguf(open_model(folder / "hf"), folder / f"{name}.gguf", kind=kind, tokenizer=fields)


def _write_tokenizer(folder: Path, vocab: int, context: int, chat: bool) -> None:
    """A byte-level tokenizer with an entry for every row of the embedding: the bytes, and pairs of bytes in order."""
    from tokenizers import AddedToken, models

    from puna.tokens.export import write_config
    from puna.tokens.special import SPECIALS
    from puna.tokens.tokenizer import byte_characters
    from puna.tokens.train import untrained

    letters = sorted(byte_characters().values())
    entries = {name: number for number, name in enumerate([*SPECIALS, *letters])}
    merges: list[tuple[str, str]] = []
    for first in letters:
        for second in letters:
            if len(entries) < vocab:
                entries[first + second] = len(entries)
                merges.append((first, second))
    backend = untrained()
    backend.model = models.BPE(vocab=entries, merges=merges)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    write_config(folder, chat=chat, context=context, template=chat)
