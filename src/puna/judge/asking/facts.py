"""What is known of a model on this machine: which weights, how large, from what and from whom.

Comes in: a model's folder or file, and its engine. Goes out: `ModelFacts`. Must never happen: a fact that is guessed; a ledger
believed that is broken, or that speaks of other weights; a stranger's card that runs or unfolds anything.

A Puna release carries its record in `puna/`: the ledger, the frozen recipe, the manifest. The ledger is believed where its chain holds
and its last model stage's content is these very files. That shows that record and weights belong together; that what was logged is
true, only `puna lineage` can test, and the evidence says so. Of a foreign folder only the card's front matter is read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.card import Card, read_card, read_gguf_card
from puna.engine import Engine
from puna.errors import PunaError
from puna.files import digest_of, file_sha256
from puna.judge.measured import ModelFacts, Parent
from puna.judge.results import weights_digest
from puna.ledger import check_seed
from puna.ledger.logged import BASE, Logged, content_of, read_logged, record_of
from puna.model.config import ModelConfig
from puna.model.formats import model_file
from puna.reading import read_bytes
from puna.recipe.scaling import Shape
from puna.recipe.schema import Recipe
from puna.tokens import Tokenizer

_NAMES_OF_A_RUN = ("name", "title", "seed", "release", "judge")  # of a recipe: they change no weight
_UNSTATED = "unstated"
_MAX_RECIPE = 1 << 20


def model_facts(path: Path, name: str, engine: Engine) -> ModelFacts:
    """The facts of the model at `path` (a folder, a `.gguf` or llama2.c `.bin` file), called `name`.

    What cannot be known is None; what is not believed is told in `notes`. Raises `PunaError` where the files cannot be read.
    """
    path = Path(path)
    tokenizer = tokenizer_digest(engine.tokenizer)
    known = ModelFacts(
        name=name, digest=model_digest(path, tokenizer), tokenizer_digest=tokenizer, parameters=engine.config.parameters,
        context=engine.context,
    )  # fmt: skip
    record, top = record_of(path)
    told = _of_a_release(path, record, top, engine.config) if record is not None else _of_a_card(path)
    return known.model_copy(update=told)


def model_digest(path: Path, tokenizer: str | None = None) -> str:
    """SHA-256 (hex) over weights, config and tokenizer: of a folder as `results.weights_digest`; of a file its bytes and `tokenizer`.

    A file's own name does not count: a copy is the same model.
    """
    file = model_file(path)
    if file is not None:
        return digest_of({f"model{file.suffix.lower()}": file_sha256(file), "tokenizer": tokenizer})
    digest = weights_digest(path)
    if digest is None:
        raise ValueError(f"{path} is no path")
    return digest


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256 (hex) over all that decides a tokenizer's ids: the same for one tokenizer in files of two kinds."""
    ends = sorted(tokenizer.stop_ids)
    return digest_of(
        [
            tokenizer.backend_json(),
            tokenizer.bos_id,
            tokenizer.adds_bos,
            tokenizer.eos_id,
            tokenizer.eos_setting,  # tokenizer_config.json's: where a written answer ends
            ends,
            tokenizer.chat_template,
        ]
    )


def training_flops(config: ModelConfig, tokens: int, row: int) -> float:
    """FLOPs of training on `tokens` in rows of `row` tokens: 6 a parameter and token, and attention (see `Shape.flops_per_token`)."""
    shape = Shape(
        dim=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads, head_dim=config.head_dim, ffn=config.intermediate_size, vocab=config.vocab_size,
        context=row, tied=config.tie_word_embeddings, qk_norm=config.qk_norm, rope_theta=config.rope_theta,
    )  # fmt: skip
    return shape.flops_per_token * tokens


def _of_a_release(path: Path, record: Path, top: bool, config: ModelConfig) -> dict[str, Any]:
    logged, recipe, notes = read_logged(record / "ledger.jsonl", path), None, []
    try:
        recipe = _read_recipe(record / "recipe.toml")
    except PunaError as error:
        notes.append(f"its recipe cannot be read: {error.what[:120]}")
    if logged.broken:
        notes.append(f"its ledger is not believed: {logged.broken}")
    own, flops = _training(recipe, top, config)
    parents = _parents(path, record, top, logged, recipe)
    foreign = recipe is None or recipe.base is not None
    if foreign and own is not None:
        notes.append(f"{own:,} training tokens of its own; those of the model that it stems from are not known")
    licence = recipe.release.licence if recipe is not None and recipe.release.licence != _UNSTATED else None
    return {
        "train_tokens": None if foreign else own, "flops": None if foreign else flops,
        "licence": licence or read_card(record.parent).licence, "parents": parents, "no_parent": "" if parents else _from_scratch(logged, recipe), "seed": _seed(logged),
        "recipe": _recipe_digest(logged, top), "notes": tuple(notes),
    }  # fmt: skip


def _read_recipe(path: Path) -> Recipe:
    import tomllib

    from puna.recipe.load import parse_recipe

    try:
        values = tomllib.loads(read_bytes(path, _MAX_RECIPE).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PunaError(f"no TOML ({str(error)[:80]})", where=str(path)) from None
    return parse_recipe(values, where=str(path))


def _training(recipe: Recipe | None, top: bool, config: ModelConfig) -> tuple[int | None, float | None]:
    """(tokens, FLOPs) that the run itself trained on, by its frozen recipe; None where it does not say."""
    if recipe is None or recipe.train.tokens is None:
        return None, None
    tuned = [section.tokens for section in recipe.tune] if top else []
    if None in tuned:
        return None, None
    tokens = recipe.train.tokens + sum(count for count in tuned if count is not None)
    row = min(recipe.model.context or config.max_position_embeddings, config.max_position_embeddings)
    low_rank = recipe.train.adapter is not None or any(section.adapter is not None for section in recipe.tune)
    return tokens, None if low_rank else training_flops(config, tokens, row)


def _parents(path: Path, record: Path, top: bool, logged: Logged, recipe: Recipe | None) -> tuple[Parent, ...]:
    """The base inside the release first, then the models that the run began with."""
    parents = []
    inner = record.parent / BASE
    if top and (inner / "config.json").is_file():
        # The tuned model and the base that it was tuned from lie in one release, and its name is the run's.
        name = f"{recipe.name if recipe is not None else path.name}/{BASE}"
        how = "adapter" if recipe is not None and recipe.tune and recipe.tune[-1].adapter is not None else "fine-tuned"
        numbers = [entry["n"] for content in (content_of(inner), content_of(path)) for entry in logged.trained(content)]
        evidence = _evidence(logged, numbers)
        parents.append(Parent(name=name, relation=how, digest=weights_digest(inner), evidence=evidence))
    entry = logged.body("base")
    if entry and isinstance(entry.get("names"), list):
        names = [str(one)[:200] for one in entry["names"]]
        digest = entry.get("weights") if len(names) == 1 and isinstance(entry.get("weights"), str) else None
        relation = _relation(logged, recipe, merged=len(names) > 1)
        evidence = _evidence(logged, [entry["n"] for entry in logged.entries if entry["kind"] in ("base", "start")])
        parents += [
            Parent(name=one, relation=relation, digest=digest, evidence=evidence) for one in dict.fromkeys(names)
        ]
    elif logged.broken and recipe is not None and recipe.base is not None:
        parents += [Parent(name=one[:200], evidence=_evidence(logged, [])) for one in dict.fromkeys(recipe.base.models)]
    return tuple(parents)


def _from_scratch(logged: Logged, recipe: Recipe | None) -> str:
    """How it is known that the model began with random weights; "" where a ledger does not say so."""
    if logged.broken or recipe is None or recipe.base is not None or not logged.entries:
        return ""
    return "its ledger says that it began with random weights (not yet checked against other models)"


def _evidence(logged: Logged, numbers: Sequence[int]) -> str:
    if logged.broken:
        return f"its recipe says so; its ledger is not believed: {logged.broken}"
    entries = ", ".join(map(str, sorted(set(numbers))))
    return f"its ledger says so (entries {entries}; not yet checked against the weights)"


def _relation(logged: Logged, recipe: Recipe | None, *, merged: bool) -> str:
    """What was done to the base, in order: "merged", "grown", "pruned", "extended", "continued" or "adapter"."""
    start = logged.body("start")
    low_rank = recipe is not None and recipe.train.adapter is not None
    steps = {
        "merged": merged,
        "grown": "grown" in start or "widened" in start,
        "pruned": "pruned" in start,
        "lengthened": "rope" in start,
        "extended": "vocabulary" in start,
        "adapter": low_rank,
        "continued": not low_rank,
    }
    return ", ".join(step for step, done in steps.items() if done)


def _seed(logged: Logged) -> int | None:
    """The seed that was revealed, where it opens a commitment made in the same ledger before training."""
    revealed = logged.body("seed-revealed")
    seed, salt = revealed.get("seed"), revealed.get("salt")
    if type(seed) is not int or not isinstance(salt, str):
        return None
    for entry in logged.entries:
        if (
            entry["kind"] == "seed"
            and isinstance(entry["body"], dict)
            and isinstance(entry["body"].get("commitment"), str)
        ):
            try:
                check_seed(entry["body"]["commitment"], seed, salt)
            except PunaError:
                continue
            return seed
    return None


def _recipe_digest(logged: Logged, top: bool) -> str | None:
    """Of the recipe without what makes no weight another (name, title, judgement, release) and without the seed.

    The base inside a release is a model of its own: its tuning does not count.
    """
    recipe = logged.body("recipe").get("recipe")
    if not isinstance(recipe, Mapping):
        return None
    left_out = (*_NAMES_OF_A_RUN, *(() if top else ("tune",)))
    return digest_of([{key: value for key, value in recipe.items() if key not in left_out}, "top" if top else BASE])


def _of_a_card(path: Path) -> dict[str, Any]:
    """What the maker of a foreign model says: in its card beside the weights, or inside a GGUF file."""
    file = model_file(path)
    inside = file is not None and file.suffix.lower() == ".gguf"
    card = read_gguf_card(file) if file is not None and inside else read_card(path) if path.is_dir() else Card()
    evidence = f"its maker says so ({'the file' if inside else 'model card'})"
    parents = tuple(Parent(name=name, relation=card.relation, evidence=evidence) for name in card.parents)
    return {"licence": card.licence, "parents": parents, "notes": card.notes}
