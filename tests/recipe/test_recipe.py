"""The recipe: what it accepts, how it tells of mistakes, and what the scaling rules make of it."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import PunaError
from puna.recipe.load import apply_change, changes_between, dump_recipe, load_recipe, parse_recipe, toml_value
from puna.recipe.scaling import MIN_STEPS, budget_tokens, plan_pretraining, plan_tuning, shape_of
from puna.recipe.schema import Model, Recipe, Sft, Tokenizer, Train
from puna.recipe.template import commented_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('nam = "x"\n[model]\nsize = "big"\n[train]\nminutes = 1\ntokens = 5\n')
    with pytest.raises(PunaError) as caught:
        load_recipe(path)
    line = caught.value.line()
    assert "3 mistakes" in line
    assert all(key in line for key in ("nam: no such key", "model.size", "train: needs exactly one budget"))
    assert "\n" not in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.minutes=true", "train.minutes: true and false are not for this key (got true)"),
        ("train.minutes=nan", "train.minutes: must be a finite number (got nan)"),
        ("model.size=4", "model.size: must be text in quotes (got 4)"),
        ("model.dim=3.5", "model.dim: must be a whole number (got 3.5)"),
        ("train.clip=0", "train.clip: must be greater than 0 (got 0)"),
        ("train.precision=fp8", "train.precision: must be 'auto', 'fp32' or 'bf16' (got 'fp8')"),
        ("corpus=4", "corpus: must be a table (got 4)"),
        ("tune=5", "tune: must be a list in [brackets] (got 5)"),
        ("corpus.sources=[]", "corpus.sources: must have at least one entry (got [])"),
        ("name=x y", "name: must be 1 to 64 of a-z"),
        ("train.tokns=5", "train.tokns: no such key (did you mean tokens?)"),
        ("tune.0.neftun=5", "tune.0.neftun: no such key (did you mean neftune?)"),
    ],
)
def test_a_mistake_is_told_in_the_recipes_words_and_blames_who_made_it(change: str, told: str) -> None:
    with pytest.raises(PunaError) as caught:
        load_recipe(ROOT / "recipes" / "python.toml", [change])
    assert caught.value.line().startswith(f"--set: {told}")


def test_a_mistake_of_the_file_blames_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[train]\nminutes = 1\n[model]\ndim = 3\n")
    with pytest.raises(PunaError, match=r"bad\.toml: 2 mistakes: .*model\.dim.*no such key"):
        load_recipe(path, ["train.tokns=5"])


def test_many_mistakes_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("".join(f"key{n} = 1\n" for n in range(20)) + "[train]\nminutes = 1\n")
    with pytest.raises(PunaError, match="20 mistakes: key0: no such key.*; and 12 more"):
        load_recipe(path)


@pytest.mark.parametrize("raw", [b"name = ", b"\xff\xfe", b"x" * (2 << 20)])
def test_a_file_that_is_no_recipe_is_told_in_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(raw)
    with pytest.raises(PunaError, match=r"bad\.toml"):
        load_recipe(path)


def test_set_reaches_tables_lists_and_replaces_budgets() -> None:
    values = tomllib.loads((ROOT / "recipes" / "python.toml").read_text())
    apply_change(values, "train.tokens=5000")
    apply_change(values, "tune.0.epochs=1.5")
    apply_change(values, "name=quick")
    recipe = parse_recipe(values, where="test")
    assert recipe.train.tokens == 5000 and recipe.train.minutes is None
    assert recipe.tune[0].epochs == 1.5 and recipe.tune[0].minutes is None
    assert recipe.name == "quick"


@pytest.mark.parametrize("change", ["model.size", "=3", "tune.7.epochs=1", "name.deep=1", "tune.0=1"])
def test_a_change_that_names_nothing_is_refused(change: str) -> None:
    values = tomllib.loads((ROOT / "recipes" / "python.toml").read_text())
    with pytest.raises(PunaError, match="--set"):
        apply_change(values, change)


def test_a_frozen_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / "python.toml", ['title="草原 \\"quoted\\""', "seed=7"])
    path = tmp_path / "frozen.toml"
    path.write_text(dump_recipe(recipe, "two\nlines"), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_what_differs_between_two_recipes_is_told_by_key() -> None:
    path = ROOT / "recipes" / "python.toml"
    before = load_recipe(path).model_dump(mode="json")
    after = load_recipe(path, ["train.tokens=5000", "tune.0.lr_share=0.25"]).model_dump(mode="json")
    assert changes_between(before, before) == []
    assert changes_between(before, after) == [
        "train.minutes 9.0 -> unset",
        "train.tokens unset -> 5000",
        "tune.0.lr_share 0.5 -> 0.25",
    ]
    assert changes_between(before, {**after, "tune": []})[-1] == "tune.0 a table -> unset"


@given(st.text())
def test_any_string_survives_toml(text: str) -> None:
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return
    assert tomllib.loads(f"value = {toml_value(text)}")["value"] == text


@pytest.mark.parametrize("text", [[], ["notes/", "文本"]])
def test_the_commented_recipe_is_valid(text: list[str]) -> None:
    content = commented_recipe("mine", text=text, size="8M", minutes=3, tune=not text)
    recipe = parse_recipe(tomllib.loads(content), where="mine")
    assert recipe.corpus.sources == (text or ["python"]) and recipe.train.minutes == 3


def test_relative_sources_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[corpus]\nsources = ["text"]\n[train]\nminutes = 1\n')
    assert load_recipe(tmp_path / "mine.toml").corpus.sources == [str(tmp_path / "text")]


@pytest.mark.parametrize("size", ["500K", "1M", "2M", "4M", "8M", "15M", "60M", "124M", "1B", "7B", "34B"])
def test_the_dial_comes_near_the_size_it_names(size: str) -> None:
    shape = shape_of(Model(size=size), Tokenizer())
    wished = float(size[:-1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[size[-1]]
    assert 0.8 < shape.params / wished < 1.25
    assert shape.dim % shape.heads == 0 and shape.heads % shape.kv_heads == 0 and shape.ffn % 64 == 0


def test_dimensions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PunaError, match="heads"):
        shape_of(Model(dim=256, heads=7), Tokenizer())
    with pytest.raises(PunaError, match="kv_heads"):
        shape_of(Model(dim=256, heads=4, kv_heads=3), Tokenizer())


def test_budgets_become_tokens_and_small_ones_are_refused() -> None:
    shape = shape_of(Model(size="4M"), Tokenizer())
    assert budget_tokens(Train(tokens=9), shape, None) == 9
    assert budget_tokens(Train(minutes=2), shape, 1000.0) == 120_000
    assert budget_tokens(Train(flops=1e12), shape, None) == int(1e12 / shape.flops_per_token)
    plan = plan_pretraining(Train(tokens=2_000_000), shape, 2_000_000)
    assert plan.steps >= MIN_STEPS and plan.tokens <= 2_000_000 and plan.rows * plan.context == plan.batch_tokens
    with pytest.raises(PunaError, match="at least 10"):
        plan_pretraining(Train(tokens=1000), shape, 1000)


def test_a_frozen_plan_is_the_plan_it_was_frozen_from() -> None:
    shape = shape_of(Model(size="4M"), Tokenizer())
    plan = plan_pretraining(Train(minutes=1), shape, 1_234_567)
    frozen = Train(tokens=plan.tokens, batch_tokens=plan.batch_tokens)
    assert plan_pretraining(frozen, shape, plan.tokens) == plan
    tuned = plan_tuning(Sft(minutes=1), plan, 500_000)
    assert plan_tuning(Sft(tokens=tuned.tokens), plan, tuned.tokens) == tuned


@pytest.mark.parametrize(("context", "batch"), [(384, None), (256, 1000), (100, 4096), (512, 300)])
def test_batches_are_whole_rows_so_that_a_frozen_plan_stays(context: int, batch: int | None) -> None:
    shape = shape_of(Model(size="4M", context=context), Tokenizer())
    plan = plan_pretraining(Train(minutes=1, batch_tokens=batch), shape, 2_500_000)
    assert plan.rows * plan.context == plan.batch_tokens
    assert plan_pretraining(Train(tokens=plan.tokens, batch_tokens=plan.batch_tokens), shape, plan.tokens) == plan
    tuned = plan_tuning(Sft(minutes=1, batch_tokens=batch), plan, 500_000)
    assert plan_tuning(Sft(tokens=tuned.tokens, batch_tokens=batch), plan, tuned.tokens) == tuned


def test_the_reference_is_adamw_with_a_cosine() -> None:
    shape = shape_of(Model(size="4M"), Tokenizer())
    plan = plan_pretraining(Train(tokens=2_000_000, method="reference"), shape, 2_000_000)
    assert plan.method == "reference" and plan.lr_matrix == plan.lr_embed == plan.lr_vector


def test_every_key_is_described() -> None:
    assert Recipe(train=Train(minutes=1)).model_dump()["name"] == "python"
    schema = Recipe.model_json_schema()
    assert {"corpus", "tokenizer", "model", "train", "tune", "judge", "release"} <= set(schema["properties"])


def test_the_page_on_recipes_lists_every_key() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    definitions = Recipe.model_json_schema()
    tables = [definitions, *definitions["$defs"].values()]
    missing = [
        key for table in tables for key in table["properties"] if f"`{key}`" not in page and f"{key}]" not in page
    ]
    assert not missing


def test_a_mistake_in_a_source_table_is_told_once_and_by_its_key() -> None:
    with pytest.raises(PunaError) as told:
        parse_recipe(
            {"corpus": {"sources": [{"path": "python", "weight": -1}]}, "train": {"tokens": 1}}, where="r.toml"
        )
    assert told.value.what.startswith("corpus.sources.0.weight: must be greater than or equal to 0")
    with pytest.raises(PunaError, match=r"corpus\.sources\.0\.pth: no such key \(did you mean path\?\)"):
        parse_recipe({"corpus": {"sources": [{"pth": "a", "path": "python"}]}, "train": {"tokens": 1}}, where="r.toml")
