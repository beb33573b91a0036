"""What `/about/{model}` tells: of a release with its record, of a stranger's model, of a record that cannot be believed, and of texts that
somebody wrote to hurt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests_serve_running import MODEL, Running, running_server
from typer.testing import CliRunner

from puna.cli.app import app
from puna.engine import Engine
from puna.files import digest_of, file_sha256
from puna.judge.asking.facts import model_facts
from puna.ledger import Ledger, new_salt, seed_commitment
from puna.ledger.logged import content_of
from puna.lineage.records import FOLDER, load, save
from puna.lineage.verdict import LAYERS, Lineage
from puna.recipe.load import dump_recipe
from puna.recipe.schema import Recipe
from puna.serve.about import About, about_model
from puna.serve.models import Hosted

STORIES = Path(__file__).resolve().parents[3] / "shared/data/weights/stories260K/stories260K.bin"
SCORES: list[Any] = [
    {"task": "heldout", "model": "base", "value": 1.5, "interval": [1.25, 1.75], "n": 45, "chance": 8.0, "higher_is_better": False},
    {"task": "quiz", "model": "chat", "value": 0.5, "interval": [0.4, 0.6], "n": 260, "chance": 0.25, "higher_is_better": True},
    {"task": "parse", "model": "base", "value": 0.25, "interval": None, "n": 3, "detail": {"no_interval": "3 are too few"}},
]  # fmt: skip
SOURCES = [
    {"name": "notes", "bytes": 2_500_000, "licence": "CC-BY-4.0"}, {"name": "高原", "bytes": 1, "licence": "unstated"},
]  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, make_tiny_release: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a release as `build.finish` lays it out: a tuned model, the base inside, results and a ledger of what was done."""

    def write(
        start: dict[str, Any] | None = None, scores: Any = SCORES, sources: Any = SOURCES, **entries: Any
    ) -> Path:
        top = make_tiny_release(tmp_path_factory.mktemp("run") / "release", seed=7)
        inner = make_tiny_release(top / "base", seed=8)
        (top / "puna").mkdir()
        recipe = {"name": "talk", "seed": 7, "train": {"tokens": 5000}, "tune": [{"data": "chat.jsonl", "tokens": 700}]}
        made = Recipe.model_validate({**recipe, **({"base": start} if start else {}), "release": {"licence": "MIT"}})
        (top / "puna/recipe.toml").write_text(dump_recipe(made), encoding="utf-8")
        (top / "puna/results.json").write_text(json.dumps({"scores": scores}), encoding="utf-8")
        ledger, salt = Ledger(top / "puna/ledger.jsonl"), new_salt()
        ledger.append("seed", {"commitment": seed_commitment(7, salt), "how": ""})
        body = made.model_dump(mode="json", exclude={"seed"})
        ledger.append("recipe", {"digest": digest_of(body), "recipe": body})
        ledger.append("sources", {"sources": sources})
        for kind, entry in entries.items():
            ledger.append(kind, entry)
        ledger.append("stage", {"stage": "tokenizer", "content": "t"})
        ledger.append("step0", {"from": "start-1" if start else "seed", "weights": "w"})
        ledger.append("stage", {"stage": "pretrain", "content": content_of(inner)})
        ledger.append("step0", {"from": "pretrain-1", "weights": "v"})
        ledger.append("stage", {"stage": "tune-0", "content": content_of(top)})
        ledger.append("results", {"sha256": file_sha256(top / "puna/results.json")})
        return top

    return write


@pytest.fixture(scope="module")
def own(release: Callable[..., Path]) -> Path:
    """A release whose weights began as random numbers."""
    return release()


def hosted(path: Path, name: str = "talk") -> Hosted:
    return Hosted(name, path, Engine.load(path, "cpu"), None, 0)  # type: ignore[arg-type]


def told(path: Path, store: Path = Path("nowhere")) -> About:
    return about_model(hosted(path), store)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "release"))


def test_a_release_from_random_weights(own: Path) -> None:
    about = told(own)
    facts = {fact.name: fact.value for fact in about.facts}
    assert (about.model, about.kind, about.notes, about.no_scores) == ("talk", "chat", [], "")
    assert facts["Parameters"].replace(",", "").isdigit() and facts["Trained on"] == "5,700 tokens"
    assert (
        facts["Architecture"].startswith("Qwen3ForCausalLM, 2 layers of 32")
        and facts["Served in"] == "fp32, by PyTorch"
    )
    assert facts["SHA-256"] == model_facts(own, "x", Engine.load(own, "cpu")).digest and facts["Made"].startswith("20")
    first, second, third = about.scores
    assert (first.name, first.of, first.value, first.low, first.high) == (
        "held-out text, bits per byte",
        "base",
        1.5,
        1.25,
        1.75,
    )
    assert (first.chance, first.n, first.higher_is_better, first.note) == (8.0, 45, False, "")
    assert (second.of, second.low, second.higher_is_better) == ("chat", 0.4, True)
    assert (third.low, third.high, third.chance, third.note) == (None, None, None, "No interval: 3 are too few.")
    assert about.own[0].startswith("Weights: they began as random numbers drawn from a seed")
    assert about.own[1:] == [
        "Tokenizer: trained by its maker.", "Text: notes, 2.5 MB, licence CC-BY-4.0.", "Text: 高原, 0.0 MB, licence not stated.",
        "Chat: tuned by its maker after pretraining.",
    ]  # fmt: skip
    assert "no evidence of shared weights" in about.inherited[0]
    assert about.inherited[1:] == ["Weights: none, by its ledger. Only a comparison of weights can test that."]
    assert about.compared == [] and "lineage" in about.not_compared
    licences = {fact.name: fact.value for fact in about.licences}
    assert licences["These weights"].startswith("MIT") and licences["The text: 高原"] == "not stated"
    assert "Attribution" in licences["The text: notes"]


def test_the_base_inside_a_release_is_not_told_of_the_tuning(own: Path) -> None:
    about = told(own / "base")
    assert [score.name for score in about.scores] == ["held-out text, bits per byte", "functions written that parse"]
    assert about.own[0].startswith("Weights: they began as random numbers") and not any(
        "Chat" in line for line in about.own
    )
    assert {fact.name: fact.value for fact in about.facts}["Trained on"] == "5,000 tokens"


def test_weights_from_others_are_inherited(release: Callable[..., Path]) -> None:
    about = told(release({"from": "llama"}, base={"names": ["llama"], "weights": "a" * 64}))
    assert about.own[0].startswith("Training: the weights named under what is inherited")
    assert not any("Tokenizer" in line or "random" in line for line in about.own)
    assert [line.partition(";")[0] for line in about.inherited[1:]] == ["Weights: from llama (continued)"]
    assert not any("talk/base" in line for line in about.inherited), "the base inside is the maker's own"
    assert any("its own; those of the model that it stems from are not known" in note for note in about.notes)


def test_a_model_without_a_record(tiny_release: Path) -> None:
    about = told(tiny_release)
    assert about.own == [] and about.scores == [] and about.no_scores == "No scores lie beside this model."
    assert about.inherited[1:] == ["Weights: where they come from is not known from these files."]
    assert about.notes == ["No record of its making lies beside this model: only its own files are told of here."]
    assert [(fact.name, fact.value) for fact in about.licences] == [("These weights", "not stated")]


def test_a_real_small_model_and_a_comparison_that_puna_lineage_kept(
    tiny_release: Path, own: Path, tmp_path: Path
) -> None:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    lineage(STORIES, tiny_release, tmp_path)
    (found,) = load(tmp_path)
    lineage(own, tiny_release, tmp_path)
    about = told(STORIES, tmp_path)
    facts = {fact.name: fact.value for fact in about.facts}
    assert (
        (facts["Parameters"], about.kind) == ("260,032", "base") and "Trained on" not in facts and "Made" not in facts
    )
    (one,) = about.compared
    assert one.reference == found.reference and about.not_compared == ""
    assert [layer.layer for layer in one.layers] == ["names", "architecture", "tokenizer", "weights", "data", "licence"]
    for layer in one.layers:
        kept = getattr(found.layers, layer.layer)
        assert (layer.verdict, layer.sentence) == (kept.verdict, kept.sentence)
    assert one.layers[3].verdict != "same"
    assert [one.reference for one in told(own, tmp_path).compared] == [found.reference]


def lineage(model: Path, reference: Path, store: Path) -> None:
    """`puna lineage MODEL REFERENCE --store STORE`."""
    done = CliRunner().invoke(app, ["lineage", str(model), str(reference), "--store", str(store), "--json"])
    assert done.exit_code == 0, done.output


def comparison(model: str, digest: str | None, reference: str = "llama", sentence: str = "None.") -> Lineage:
    said = {"verdict": "cannot tell", "sentence": sentence}
    layers = dict.fromkeys(LAYERS, said)
    facts = None if digest is None else {"name": model, "digest": digest}
    return Lineage.model_validate({"model": model, "reference": reference, "layers": layers, "model_facts": facts})


def test_a_comparison_of_other_weights_of_that_name_is_not_its_own(tiny_release: Path, tmp_path: Path) -> None:
    save(comparison("talk", None), tmp_path)
    save(comparison("talk", "0" * 64), tmp_path)
    assert told(tiny_release, tmp_path).compared == []
    digest = model_facts(tiny_release, "x", Engine.load(tiny_release, "cpu")).digest
    save(comparison("another name", digest, "yi"), tmp_path)
    assert [one.reference for one in told(tiny_release, tmp_path).compared] == ["yi"]


def test_a_file_that_is_no_comparison_is_told_and_the_others_count(tiny_release: Path, tmp_path: Path) -> None:
    digest = model_facts(tiny_release, "x", Engine.load(tiny_release, "cpu")).digest
    save(comparison("x", digest), tmp_path)
    (tmp_path / FOLDER / "evil.json").write_text('{"model": 1}', encoding="utf-8")
    about = told(tiny_release, tmp_path)
    assert len(about.compared) == 1
    assert "A file of the store of comparisons cannot be read, and is left out." in about.notes


@pytest.mark.parametrize("how", ["changed", "of other weights", "torn", "no JSON"])
def test_a_ledger_that_is_not_believed_is_not_quoted(
    how: str, own: Path, tmp_path: Path, make_tiny_release: Callable[..., Path]
) -> None:
    top = copied(own, tmp_path)
    ledger = top / "puna/ledger.jsonl"
    text = ledger.read_text("utf-8")
    if how == "changed":
        ledger.write_text(text.replace('"notes"', '"books"'), encoding="utf-8")
    elif how == "torn":
        ledger.write_text("\n".join(text.splitlines()[:5]) + "\n", encoding="utf-8")
    elif how == "no JSON":
        ledger.write_bytes(b"\xff\x00<script>\n")
    else:
        make_tiny_release(top, seed=11)
    about = told(top)
    assert about.own == [] and "Made" not in {fact.name for fact in about.facts}
    assert about.inherited[1:] == ["Weights: where they come from is not known from these files."]
    assert any("ledger is not believed" in note for note in about.notes)
    assert [fact.name for fact in about.licences] == ["These weights"]
    assert len(about.scores) == 3 and any("no ledger that is believed ties them" in note for note in about.notes)


@pytest.mark.parametrize("text", ['{"scores": []}', '{"scores": [{"task": "quiz", "value": 1.0}]}', "[", "[" * 100_000])
def test_scores_that_were_changed_or_damaged_are_left_out(text: str, own: Path, tmp_path: Path) -> None:
    top = copied(own, tmp_path)
    (top / "puna/results.json").write_text(text, encoding="utf-8")
    about = told(top)
    assert about.scores == [] and about.own != []
    assert about.no_scores.startswith(("The scores beside it are not those", "Its scores cannot be read: not JSON"))


def test_results_of_any_form_are_taken_for_what_they_are(release: Callable[..., Path]) -> None:
    hostile = "<script>alert(1)</script>\u202eevil\x1b[31m\n\u0000" + "长" * 100_000
    bad: list[Any] = [
        None, 7, "score", [], {}, {"value": "1"}, {"value": True}, {"value": float("nan")}, {"value": float("inf")}, {"value": 10**400},
    ]  # fmt: skip
    odd = {"task": hostile, "model": hostile, "value": 1, "interval": ["a", {}], "n": -1, "chance": [], "higher_is_better": "no",
           "detail": {"no_interval": hostile}}  # fmt: skip
    more = {"task": {"a": 1}, "value": 2, "interval": [1, 2, 3], "n": 1 << 60, "detail": [hostile], "model": None}
    top = release(scores=[*bad, odd, more, *[{"task": str(number), "value": number} for number in range(500)]],
                  sources=[{"name": hostile, "licence": hostile, "bytes": 10**400}, {"name": 3, "licence": None, "bytes": True}, "x", None,
                           *({"name": str(number)} for number in range(500))])  # fmt: skip
    about = told(top)
    assert [score.value for score in about.scores[:2]] == [1, 2] and len(about.scores) == 40 and len(about.own) < 60
    first, second = about.scores[:2]
    assert (
        first.name.startswith("<script>alert(1)</script>⟨U+202E⟩evil␛[31m")
        and len(first.name) <= 2000
        and first.of == "chat"
    )
    assert (first.low, first.n, first.chance, second.low, second.n) == (None, 0, None, None, 0)
    assert second.name == "a score without a name" and second.note == ""
    text = about.model_dump_json()
    assert len(text) < 100_000 and "\u202e" not in text and "\\u001b" not in text and "\\n" not in text
    assert json.loads(text) == about.model_dump()


def test_hostile_texts_of_a_card_and_a_comparison(make_tiny_release: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_tiny_release(tmp_path / "stranger", seed=9)
    evil = "</script><img src=x onerror=alert(1)>\u202e" + "y" * 5000
    card = {"license": evil, "base_model": [evil, *(f"m{number}" for number in range(400))]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# {evil}\n", encoding="utf-8")
    digest = model_facts(folder, "x", Engine.load(folder, "cpu")).digest
    for number in range(60):
        save(comparison("x", digest, f"{number} {evil}", evil), tmp_path / "store")
    about = told(folder, tmp_path / "store")
    text = about.model_dump_json()
    assert "\u202e" not in text and len(about.compared) == 40 and len(about.inherited) <= 41
    assert all(len(layer.sentence) <= 2000 for one in about.compared for layer in one.layers)


# ---- By HTTP ----


@pytest.fixture(scope="module")
def asked(own: Path, tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = tmp_path_factory.mktemp("store")
    with running_server({"talk": own, MODEL: tiny_release}, results=store) as running:
        yield running, store


def test_the_route(asked: tuple[Running, Path], own: Path) -> None:
    running, _ = asked
    with running.client() as client:
        response = client.get("/about/talk")
        assert response.status_code == 200 and response.headers["content-type"] == "application/json"
        assert About.model_validate(response.json()) == told(own)
        assert str(own) not in response.text and str(own.parent) not in response.text  # no path of this machine
        assert client.get(f"/about/{MODEL}").json()["scores"] == []
        for name in ("nobody", "%2e%2e", "%2e%2e%2ftalk", "羊驼"):
            assert client.get(f"/about/{name}").status_code == 404


def test_a_comparison_made_while_the_server_runs_is_shown(asked: tuple[Running, Path], own: Path) -> None:
    running, store = asked
    digest = model_facts(own, "x", Engine.load(own, "cpu")).digest
    with running.client() as client:
        assert client.get("/about/talk").json()["compared"] == []
        save(comparison("x", digest, "llama"), store)
        assert [one["reference"] for one in client.get("/about/talk").json()["compared"]] == ["llama"]


def test_files_that_are_gone_are_an_error_that_names_no_path(own: Path, tmp_path: Path) -> None:
    top = copied(own, tmp_path)
    with running_server({"talk": top}, results=tmp_path / "store") as running, running.client() as client:
        shutil.rmtree(top)
        gone = client.get("/about/talk")
        assert gone.status_code == 500 and "cannot be read any more" in gone.json()["error"]["message"]
        assert str(tmp_path) not in gone.text
        assert client.get("/health").status_code == 200
