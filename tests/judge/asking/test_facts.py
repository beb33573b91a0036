"""What is known of a model: from a release's own record where it holds, from a maker's card, or not at all."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.engine import Engine
from puna.files import digest_of, file_sha256
from puna.judge.asking.facts import model_facts, tokenizer_digest, training_flops
from puna.judge.measured import ModelFacts
from puna.judge.results import weights_digest
from puna.ledger import Ledger, new_salt, seed_commitment
from puna.recipe.load import dump_recipe
from puna.recipe.schema import Recipe

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
STORIES = DATA / "weights" / "stories260K" / "stories260K.bin"
TEXTS = ["Llamas walk over the high grassland. 羊驼走过高原的草地。"] * 40


def recipe(name: str, seed: int, **more: Any) -> Recipe:
    train = {"tokens": 5000} | more.pop("train", {})
    return Recipe.model_validate({"name": name, "seed": seed, "train": train, "release": {"licence": "MIT"}, **more})


def content(folder: Path) -> str:
    names = [path for path in folder.iterdir() if path.is_file()]
    return digest_of({path.name: file_sha256(path) for path in names})


@pytest.fixture
def release(tmp_path: Path, tiny_model: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a release as `build.finish` lays it out: models, record, a ledger of what was done."""

    def write(made: Recipe, entries: dict[str, dict[str, Any]] | None = None, seed_salt: str | None = None) -> Path:
        top = tiny_model(tmp_path / made.name / "release", TEXTS, 400, seed=made.seed or 0)
        ledger = Ledger(tmp_path / made.name / "ledger.jsonl")
        salt = seed_salt or new_salt()
        ledger.append("seed", {"commitment": seed_commitment(made.seed or 0, salt), "how": ""})
        body = made.model_dump(mode="json", exclude={"seed"})
        ledger.append("recipe", {"digest": digest_of(body), "recipe": body})
        for kind, entry in (entries or {}).items():
            ledger.append(kind, entry)
        if made.tune:
            base = tiny_model(top / "base", TEXTS, 400, seed=99)
            ledger.append("stage", {"stage": "pretrain", "content": content(base)})
        ledger.append("stage", {"stage": "tune-0" if made.tune else "pretrain", "content": content(top)})
        ledger.append("seed-revealed", {"seed": made.seed, "salt": salt})
        (top / "puna").mkdir()
        shutil.copyfile(ledger.path, top / "puna" / "ledger.jsonl")
        (top / "puna" / "recipe.toml").write_text(dump_recipe(made))
        (top / "README.md").write_text('---\nlicense: "apache-2.0"\n---\n# Card\n')
        return top

    return write


def facts(path: Path, name: str = "x") -> ModelFacts:
    return model_facts(path, name, Engine.load(path, device="cpu"))


def test_a_release_from_random_weights(release: Callable[..., Path]) -> None:
    found = facts(release(recipe("first", 7)), "first")
    assert (found.train_tokens, found.licence, found.seed, found.parents, found.notes) == (5000, "MIT", 7, (), ())
    assert found.flops and found.flops > 6 * 5000 * 1000
    assert found.parameters and found.context and found.name == "first"


def test_seeds_of_one_recipe_are_recognised(release: Callable[..., Path]) -> None:
    one, two = facts(release(recipe("one", 1))), facts(release(recipe("two", 2)))
    other = facts(release(recipe("three", 3, train={"weight_decay": 0.3})))
    assert one.recipe == two.recipe and one.recipe is not None and (one.seed, two.seed) == (1, 2)
    assert other.recipe != one.recipe and one.digest != two.digest


def test_a_tuned_model_has_its_own_base_as_a_parent(release: Callable[..., Path]) -> None:
    top = release(recipe("talk", 4, tune=[{"data": "chat.jsonl", "tokens": 700}]))
    found, base = facts(top), facts(top / "base")
    (parent,) = found.parents
    assert (parent.name, parent.relation, parent.digest) == ("talk/base", "fine-tuned", weights_digest(top / "base"))
    assert parent.digest == base.digest and "entries 2, 3;" in parent.evidence and "not yet checked" in parent.evidence
    assert (found.train_tokens, base.train_tokens) == (5700, 5000)
    assert base.parents == () and base.recipe != found.recipe


def test_what_was_done_to_a_base_is_told(release: Callable[..., Path]) -> None:
    entries = {"base": {"names": ["llama"], "weights": "a" * 64}, "start": {"grown": {}, "vocabulary": {}}}
    found = facts(release(recipe("grown", 5, base={"from": "llama", "layers": 4}), entries))
    (parent,) = found.parents
    assert (parent.name, parent.relation, parent.digest) == ("llama", "grown, extended, continued", "a" * 64)
    assert "entries 2, 3;" in parent.evidence
    assert found.train_tokens is None and "5,000 training tokens of its own" in found.notes[0]
    adapted = recipe("lora", 5, base={"from": "llama"}, train={"adapter": {"rank": 4}})
    assert facts(release(adapted, {"base": {"names": ["llama"]}})).parents[0].relation == "adapter"
    merged = recipe("soup", 6, base={"from": ["a", "b"]})
    names = [
        (one.name, one.relation, one.digest)
        for one in facts(release(merged, {"base": {"names": ["a", "b"], "weights": "c"}})).parents
    ]
    assert names == [("a", "merged, continued", None), ("b", "merged, continued", None)]


def test_a_broken_ledger_is_said_and_not_believed(release: Callable[..., Path]) -> None:
    top = release(recipe("broken", 5, base={"from": "llama"}), {"base": {"names": ["mine alone"]}})
    path = top / "puna" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"mine alone", b"nobody's!!"))
    found = facts(top)
    (parent,) = found.parents
    assert parent.name == "llama" and "not believed" in parent.evidence and "changed" in parent.evidence
    assert found.seed is None and found.recipe is None and any("not believed" in note for note in found.notes)


def test_a_ledger_of_other_weights_is_not_believed(release: Callable[..., Path]) -> None:
    honest = release(recipe("honest", 1))
    thief = release(recipe("thief", 2))
    shutil.copyfile(honest / "puna" / "ledger.jsonl", thief / "puna" / "ledger.jsonl")
    found = facts(thief)
    assert found.seed is None and "none of its training stages" in found.notes[0]


def test_a_seed_that_opens_no_commitment_is_none(release: Callable[..., Path]) -> None:
    top = release(recipe("seed", 1), {"seed-revealed": {"seed": 3, "salt": "0" * 64}})
    assert facts(top).seed == 1  # the last one counts, and it opens
    path = top / "puna" / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("seed-revealed", {"seed": 3, "salt": "0" * 64})
    assert facts(top).seed is None


CARD = """---
license: other
license_name: llama-free
base_model:
- org/one
- org/two
base_model_relation: merge
---
# A card
"""


@pytest.mark.parametrize(("text", "licence", "parents", "relation"), [
    (CARD, "llama-free", ["org/one", "org/two"], "merged"),
    ("---\nlicense: mit\nbase_model: org/x\n---\n", "mit", ["org/x"], ""),
    ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit", [], ""),
    ("---\nlicense: [mit]\nbase_model: {a: b}\nbase_model_relation: [x]\n---\n", None, [], ""),
    ("# no front matter\nlicense: mit", None, [], ""),
    ("---\n- a\n---\n", None, [], ""),
])  # fmt: skip
def test_a_makers_card(
    tmp_path: Path, tiny_model: Callable[..., Path], text: str, licence: str | None, parents: list[str], relation: str
) -> None:
    folder = tiny_model(tmp_path / "m", TEXTS, 400)
    (folder / "README.md").write_bytes(text.encode())
    found = facts(folder)
    assert (found.licence, [one.name for one in found.parents], found.notes) == (licence, parents, ())
    assert all((one.relation, one.evidence) == (relation, "its maker says so (model card)") for one in found.parents)


BOMB = "---\na: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("text", [
    BOMB + "license: mit\n---\n", "---\nlicense: !!python/object/apply:os.system [echo]\n---\n", "---\n" + "[" * 100_000 + "\n---\n",
    "---\nlicense: 'mit\n---\n", "---\n" + "x: y\n" * 100_000, "---\nlicense: \x00\n---\n",
])  # fmt: skip
def test_a_hostile_card_is_told_and_passed_over(tmp_path: Path, tiny_model: Callable[..., Path], text: str) -> None:
    folder = tiny_model(tmp_path / "m", TEXTS, 400)
    (folder / "README.md").write_text(text)
    found = facts(folder)
    assert found.licence is None and found.parents == () and "cannot be read" in found.notes[0]


def test_a_card_that_is_a_link_out_is_not_followed(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(tmp_path / "m", TEXTS, 400)
    (tmp_path / "secret.md").write_text("---\nlicense: mit\n---\n")
    (folder / "README.md").symlink_to(tmp_path / "secret.md")
    assert facts(folder).licence is None


@pytest.mark.skipif(not STORIES.is_file(), reason="the shared weights are not here")
def test_files_are_the_same_model_under_another_name(tmp_path: Path) -> None:
    found = facts(STORIES, "stories")
    assert (found.parameters, found.context, found.licence, found.parents) == (260_032, 512, None, ())
    for file in STORIES.parent.glob("*.bin"):
        shutil.copyfile(file, tmp_path / ("renamed.bin" if file == STORIES else "tokenizer.bin"))
    copy = facts(tmp_path / "renamed.bin")
    assert (copy.digest, copy.tokenizer_digest) == (found.digest, found.tokenizer_digest)
    engine = Engine.load(STORIES, device="cpu")
    assert tokenizer_digest(engine.tokenizer) == found.tokenizer_digest
    gains, attention = 11 * 64, 6 * 5 * 64 * 512  # which no product reads; layers, width, row
    assert training_flops(engine.config, 10, 512) == 10 * (6 * (260_032 - gains) + attention)


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.is_file(), reason="the shared weights are not here")
def test_a_real_run(tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text(
        "".join(json.dumps({"text": f"{number} llamas ran home. " * 40}) + "\n" for number in range(300))
    )
    (tmp_path / "more.toml").write_text(
        f'name = "more"\nseed = 3\n[base]\nfrom = {json.dumps(str(STORIES))}\nlayers = 6\n[corpus]\nsources = ["new.jsonl"]\n'
        '[train]\ntokens = 20000\nbatch_tokens = 1024\ncompile = "off"\nthreads = 1\n[model]\ncontext = 128\n[judge]\ncompressors = false\nbootstrap = 100\n'
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "puna", "make", "more.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = facts(tmp_path / "runs" / "more" / "release", "more")
    (parent,) = found.parents
    assert (parent.name, parent.relation) == ("stories260K.bin", "grown, continued") and parent.digest
    assert found.seed == 3 and found.recipe and found.train_tokens is None and "of its own" in found.notes[0]
