"""The stages that begin with open weights: the base as it came, its old text, its tokenizer, the model at step 0.

Comes in: `[base]` of the recipe. Goes out: Hugging Face folders in fp32, fp16 or bf16 as the base is. Must never happen: weights
at step 0 of which the run cannot say what was inherited.
"""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.build.graph import LEDGER, Context, Stage
from puna.build.mixture import texts_of
from puna.build.origin import EXTENSION, base_of, model_name, model_paths, whole_vocab
from puna.card import card_of
from puna.corpus import build_documents, other_digests, source_digest
from puna.errors import PunaError
from puna.files import atomic_file, canonical_json, digest_of, file_sha256, read_json
from puna.recipe.base import SELF, Base
from puna.recipe.schema import Corpus, Recipe

if TYPE_CHECKING:
    from puna.model.weights import Weights
    from puna.tokens import Tokenizer

CALIBRATION_ROWS, CALIBRATION_TOKENS = 16, 256  # what tells which layers and neurons do least
TOKENIZER_SAMPLE_BYTES = 200_000_000  # merges of a vocabulary this small do not move with more text
DRAWN, DRAWN_TOTAL, DRAWN_TOKENS, DRAWN_AT_ONCE = "drawn.jsonl", 200_000, 256, 64  # text that the base writes itself
_WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.gguf", "*.bin", "*.txt")


def base_stage(recipe: Recipe) -> Stage:
    """The base as it came, in one form: a Hugging Face folder with its tokenizer."""
    base = base_of(recipe)

    def settings(context: Context) -> Any:
        paths = model_paths(base, context.store.run.parent)
        asked = base.model_dump(include={"merge", "merge_weights"})
        others = [resolve_one(base.merge_base, context)] if base.merge_base else []
        return {**asked, "files": [_digests(path) for path in paths + others],
                "tokenizer": _tokenizer_digest(_tokenizer(base, paths[0]))}  # fmt: skip

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.judge.results import weights_digest
        from puna.model.formats import open_model, write_huggingface

        paths = model_paths(base, context.store.run.parent)
        models, tokenizer = [open_model(path) for path in paths], _tokenizer(base, paths[0])
        for path in paths[1:]:
            # What a file says of the start token is no part of the vocabulary: a converted copy merges with its source.
            if _tokenizer(base, path).backend_json()["model"] != tokenizer.backend_json()["model"]:
                raise PunaError("has another tokenizer than the first model: the two cannot be merged", where=str(path))
        if tokenizer.vocab_size > models[0].config.vocab_size:
            raise PunaError(f"the tokenizer has {tokenizer.vocab_size} entries and the model knows "
                            f"{models[0].config.vocab_size}", where="base", mend="the two are not of one model")  # fmt: skip
        write_huggingface(_merged(base, models, context), folder)
        tokenizer.save(folder, context=models[0].config.max_position_embeddings)
        config = models[0].config
        facts = {
            "names": [model_name(str(path)) for path in paths],
            "stored": [dict(Counter(model.types.values())) for model in models], "merge": base.merge,
            "parameters": config.parameters, "architecture": config.architecture, "layers": config.num_hidden_layers,
            "context": config.max_position_embeddings, "vocab": config.vocab_size, "entries": tokenizer.vocab_size,
            "weights": weights_digest(folder), "files": [_digests(path) for path in paths], "cards": [_card(path) for path in paths],
        }  # fmt: skip
        return {**facts, LEDGER: [["base", {"artefact": work.name, **facts}]]}

    return Stage("base", "reading the base", ("model", "tokens", "engine"), (), settings, run)


def resolve_one(name: str | None, context: Context) -> Path:
    """Where one model lies. Raises `PunaError`."""
    from puna.engine import resolve_model

    return resolve_model(name or "", context.store.run.parent)


def _merged(base: Base, models: "list[Weights]", context: Context) -> "Weights":
    if len(models) == 1:
        return models[0]
    from puna.model.formats import open_model
    from puna.model.surgery.merge import merge

    counted_from = open_model(resolve_one(base.merge_base, context)) if base.merge_base else None
    # A mean of the models; of differences, each whole.
    each = 1.0 if base.merge in ("task", "ties") else 1 / len(models)
    shares = base.merge_weights or [each] * len(models)
    return merge(models, base.merge or "linear", weights=shares, base=counted_from)


def _tokenizer(base: Base, model: Path) -> "Tokenizer":
    from puna.tokens.formats import open_tokenizer

    return open_tokenizer(Path(base.tokenizer) if base.tokenizer else model)


def _tokenizer_digest(tokenizer: "Tokenizer") -> str:
    ends = sorted(tokenizer.stop_ids)
    return digest_of(
        [
            tokenizer.backend_json(),
            tokenizer.bos_id,
            tokenizer.adds_bos,
            tokenizer.eos_id,
            ends,
            tokenizer.chat_template,
        ]
    )


def _card(path: Path) -> dict[str, Any]:
    """What the model's maker says of its licence and of its parents."""
    card = card_of(path)
    return {"licence": card.licence, "parents": list(card.parents)}


@cache  # the settings have asked already, and gigabytes are not read twice
def _digests(path: Path) -> Any:
    files = [path] if path.is_file() else sorted({file for kind in _WEIGHT_FILES for file in path.glob(kind)})
    return [[file.name, file_sha256(file)] for file in files]


def old_stage(recipe: Recipe) -> Stage:
    """Text like the base's own, through the same stages as the new one; "self": drawn from the base (Robins 1995, pseudorehearsal)."""
    base = base_of(recipe)
    own = base.old == [SELF]

    def section(folder: Path) -> Corpus:
        sources = [str(folder / DRAWN)] if own else base.old
        # The old text may be of another language than those that are kept of the new.
        language = {**recipe.corpus.language.model_dump(), "apply": "off"}
        return Corpus.model_validate({**recipe.corpus.model_dump(), "sources": sources, "language": language})

    def settings(context: Context) -> Any:
        named = section(Path())
        digests = {"seed": context.seed, "others": other_digests(named)} if own else source_digest(named)
        return {**named.model_dump(exclude={"sources", "scale"}), **digests}

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        if own:
            work.mkdir(parents=True, exist_ok=True)
            _draw_texts(context, work / DRAWN)
        report = build_documents(section(work), folder, context.progress, work)
        told = [["sources", {"artefact": work.name, "sources": report["sources"], "drawn": own}]]
        return {"documents": report["documents"], "bytes": report["bytes"], "drawn": own, LEDGER: told}

    return Stage(
        "old", "reading text like the base's own", ("corpus", "engine"), ("base",) if own else (), settings, run
    )


def _draw_texts(context: Context, path: Path) -> None:
    """Texts that the base writes from nothing, drawn as it weighs them: a sample of what it was taught."""
    from puna.engine import Engine, Sampling
    from puna.judge.bits_per_byte import start_id

    engine = Engine.load(context.done["base"])
    most = min(DRAWN_TOKENS, engine.context - 1)
    count = DRAWN_TOTAL // most
    progress, prompt = context.progress, [start_id(engine)]
    progress.start("drawing text from the base", count, "texts")
    with atomic_file(path) as stream:
        for first in range(0, count, DRAWN_AT_ONCE):
            here = range(first, min(count, first + DRAWN_AT_ONCE))
            # 32 bits: all that torch's generator takes of a seed.
            ways = [
                Sampling(max_tokens=most, temperature=1.0, top_p=1.0, seed=int(digest_of([context.seed, n])[:8], 16))
                for n in here
            ]
            for reply in engine.complete([prompt] * len(here), ways):
                stream.write(canonical_json({"text": reply.text.strip()}) + b"\n")
            progress.update(here.stop)
    progress.finish()


def base_tokenizer_stage(recipe: Recipe) -> Stage:
    """The base's tokenizer: as it is, or with entries for the new text, or for the turns of a chat."""
    base = base_of(recipe)

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.tokens import Tokenizer
        from puna.tokens.extend import extend_tokenizer
        from puna.tokens.special import IM_END, IM_START
        from puna.tokens.train import sample_report

        tokenizer = Tokenizer.load(context.done["base"])
        missing = [] if not recipe.tune else [
            name for name, there in ((IM_START, tokenizer.im_start_id), (IM_END, tokenizer.im_end_id)) if there is None
        ]  # fmt: skip
        if base.extend or missing:
            texts = texts_of(context.done["corpus"], TOKENIZER_SAMPLE_BYTES)
            extend_tokenizer(tokenizer, texts, base.extend or 0, folder, context.progress, specials=missing)
            tokenizer = Tokenizer.load(folder)
        else:
            tokenizer.save(folder)
        return sample_report(tokenizer, texts_of(context.done["corpus"], TOKENIZER_SAMPLE_BYTES))

    return Stage("tokenizer", "taking over the base's tokenizer", ("tokens",), ("base", "corpus"),
                 lambda context: {"extend": base.extend, "chat": bool(recipe.tune)}, run)  # fmt: skip


def start_stage(recipe: Recipe) -> Stage:
    """The model at step 0: the base, deeper, wider, smaller, longer or of a larger vocabulary."""
    base = base_of(recipe)

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.model.formats import open_model, write_huggingface
        from puna.model.surgery.context import lengthen
        from puna.model.surgery.vocabulary import extend_rows
        from puna.tokens import Tokenizer

        weights, facts = open_model(context.done["base"]), dict[str, Any]()
        if base.resizes:
            weights, facts = _resized(base, weights, context)
        if base.context is not None:
            weights = lengthen(weights, base.context, base.rope or "abf", theta=base.rope_theta)
            facts["rope"] = {"theta": weights.config.rope_theta, "how": base.rope or "abf", "context": base.context}
        extension = context.done["tokenizer"] / EXTENSION
        if extension.is_file():
            made = read_json(extension)
            vocab = max(weights.config.vocab_size, whole_vocab(made["vocab"]))
            weights = extend_rows(weights, _with_ends(made, context), vocab, first=made["base_vocab"])
            facts["vocabulary"] = {"before": made["base_vocab"], "after": made["vocab"]}
        write_huggingface(weights, folder)
        Tokenizer.load(context.done["tokenizer"]).save(folder, context=weights.config.max_position_embeddings)
        facts["parameters"] = weights.config.parameters
        return {**facts, LEDGER: [["start", {"artefact": work.name, **facts}]]}

    def settings(context: Context) -> Any:
        seed = {"seed": context.seed} if base.intermediate is not None else {}
        return {**base.model_dump(include={"layers", "grow", "span", "intermediate", "heads", "hidden", "context", "rope",
                                           "rope_theta"}), **seed}  # fmt: skip

    return Stage(
        "start", "making the model of step 0", ("model", "tokens"), ("base", "tokenizer", "corpus"), settings, run
    )


def _with_ends(made: dict[str, Any], context: Context) -> list[list[int]]:
    """The old ids that each new one stands for; a turn's end begins as the document's end.

    Else both marks of a turn would begin as the same row, and where an adapter leaves the embedding frozen they would stay so.
    """
    from puna.tokens import Tokenizer

    tokenizer, pieces = Tokenizer.load(context.done["tokenizer"]), [list(old) for old in made["pieces"]]
    place = -1 if tokenizer.im_end_id is None else tokenizer.im_end_id - made["base_vocab"]
    old_end = Tokenizer.load(context.done["base"]).eos_id
    if 0 <= place < len(pieces) and old_end is not None:
        pieces[place] = [old_end]
    return pieces


def _resized(base: Base, weights: "Weights", context: Context) -> "tuple[Weights, dict[str, Any]]":
    import torch

    from puna.model.surgery.plan import grow, prune
    from puna.model.surgery.width import widen_mlp
    from puna.tokens import Tokenizer

    tokenizer = Tokenizer.load(context.done["base"])
    ids: list[int] = []
    for text in texts_of(context.done["corpus"], 20 * CALIBRATION_ROWS * CALIBRATION_TOKENS):
        ids += tokenizer.encode(text)
    length = min(CALIBRATION_TOKENS, weights.config.max_position_embeddings)
    rows = min(CALIBRATION_ROWS, len(ids) // length)
    if not rows:
        raise PunaError("the text is too short to tell which layers do least", where="corpus.sources")
    batch = torch.tensor(ids[: rows * length]).view(rows, length)
    config, facts = weights.config, dict[str, Any]()
    if base.layers is not None and base.layers > config.num_hidden_layers:
        span = (base.span[0], base.span[1]) if base.span else None
        weights, facts["grown"] = grow(weights, layers=base.layers, how=base.grow or "duplicate", span=span, ids=batch)
    fewer = base.layers if base.layers is not None and base.layers < config.num_hidden_layers else None
    narrower = (
        base.intermediate if base.intermediate is not None and base.intermediate < config.intermediate_size else None
    )
    if (fewer, narrower, base.heads, base.hidden) != (None, None, None, None):
        weights, facts["pruned"] = prune(
            weights, batch, layers=fewer, intermediate=narrower, heads=base.heads, hidden=base.hidden
        )
    if base.intermediate is not None and base.intermediate > config.intermediate_size:
        weights = widen_mlp(weights, base.intermediate, context.seed)
        facts["widened"] = {"before": config.intermediate_size, "after": base.intermediate}
    return weights, facts
