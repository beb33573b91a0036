"""The weights compared: one case a relation, on a family whose truth is known by construction."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from puna.lineage.opened import Opened, open_for_comparison
from puna.lineage.verdict import DERIVED_BELOW, NOTHING_ABOVE, Weights
from puna.lineage.weights import relation as named
from puna.lineage.weights.compare import compare_weights
from puna.lineage.zoo import changes
from puna.lineage.zoo.changes import Changed
from puna.lineage.zoo.training import CONFIG, State

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def beside(model: Opened, *references: Opened) -> Weights:
    return compare_weights(model, references)[0]


def one_test(found: Weights, name: str) -> Any:
    return next(test for test in found.tests if test.name == name)


# Strangers


@pytest.mark.parametrize(
    "model, reference", [("second", "first"), ("student", "first"), ("tuned", "second"), ("student", "second")]
)
def test_strangers_are_independent(family: Any, model: str, reference: str) -> None:
    found = beside(family.opened(model), family.opened(reference))
    assert found.verdict == "independent" and found.relation is None and found.share is None
    assert found.p_value is not None and found.p_value > NOTHING_ABOVE
    assert [block.source for block in found.blocks] == [None] * 4
    assert "no trace" in found.sentence and "same text, does not count" in found.sentence
    assert all(test.ran for test in found.tests) and found.null
    for one in found.tensors:  # the map of differences shows what strangers show
        if one.kind in ("gate", "up", "down"):
            assert one.difference == pytest.approx(math.sqrt(2), abs=0.25)


def test_no_p_value_without_its_null(family: Any) -> None:
    found = beside(family.opened("copy", dict(family["first"])), family.opened("first"))
    assert found.p_value is None or found.null


def test_raw_norms_are_alike_in_strangers_and_do_not_count(family: Any) -> None:
    norms = one_test(beside(family.opened("second"), family.opened("first")), "norms")
    assert norms.details["raw_cosine"] > 0.95 and norms.p_value > 1e-4


# Descendants


@pytest.mark.parametrize(
    "member, relations",
    [
        ("tuned", {named.FINE_TUNED}), ("longer", {named.CONTINUED}), ("adapter", {named.ADAPTER}),
        ("sibling", {named.CONTINUED}),  # the known trap: the same random start is a common descent
    ],
)  # fmt: skip
def test_trained_on(family: Any, member: str, relations: set[str]) -> None:
    found = beside(family.opened(member), family.opened("first"))
    assert found.verdict == "derived" and found.relation in relations
    assert found.log10_p is not None and found.log10_p < math.log10(DERIVED_BELOW)
    assert [block.source for block in found.blocks] == [0, 1, 2, 3]
    assert found.share is not None and found.share > 0.9
    assert found.decided_by == "identity" or found.null
    assert "symmetric" in found.direction.sentence
    if found.relation == named.CONTINUED:
        assert "two trainings from the same random start look alike" in found.sentence


MADE: dict[str, tuple[Callable[[State], State], str, str]] = {
    "copy": (dict, named.COPY, ""),
    "bf16": (changes.rounded, named.ROUNDED, ""),
    "int8": (lambda s: changes.coarse(s, 8), named.QUANTISED, ""),
    "int4": (lambda s: changes.coarse(s, 4), named.QUANTISED, ""),
    "noise": (lambda s: changes.noised(s, 0.3, 1), named.NOISED, ""),
    "hidden-names": (changes.renamed, named.RENAMED, ""),
    "units": (lambda s: changes.units_permuted(s, 1), named.COPY, "units permuted"),
    "heads": (lambda s: changes.heads_permuted(s, 1), named.COPY, "heads permuted"),
    "stream": (lambda s: changes.stream_permuted(s, 1), named.COPY, "stream permuted"),
    "rotated": (lambda s: changes.stream_rotated(s, 1), named.COPY, "stream rotated"),
    "folded": (changes.folded, named.COPY, "gains folded"),
    "rescaled": (lambda s: changes.rescaled(s, 1), named.COPY, "rows rescaled"),
    "turned-round": (changes.transposed, named.COPY, ""),
    "renamed-and-permuted": (lambda s: changes.renamed(changes.units_permuted(s, 1)), named.COPY, "units permuted"),
    "sparse": (lambda s: changes.each_matrix(s, lambda w: torch.where(w.abs() < 0.3 * w.std(), torch.zeros_like(w), w)), named.SPARSE, ""),
}  # fmt: skip


@pytest.mark.parametrize("what", MADE)
def test_one_change_one_name(family: Any, what: str) -> None:
    change, relation, also = MADE[what]
    reference = family.opened("first")
    found = beside(family.opened(what, change(family["first"]), reference), reference)
    assert found.verdict == ("same" if what in ("copy", "hidden-names") else "derived")
    assert found.relation == relation, (found.relation, found.also)
    assert not also or also in found.also, found.also
    assert [block.source for block in found.blocks] == [0, 1, 2, 3]
    assert found.share is not None and found.share > 0.95
    if what in ("units", "heads", "stream", "rotated", "folded", "rescaled"):  # all undone: nothing is left
        left = [one.difference for one in found.tensors if one.layer is not None and not one.kind.endswith("norm")]
        assert len(left) == 28 and max(left) < named.TURNED  # type: ignore[type-var]


@pytest.mark.parametrize(
    "how, sources", [("duplicate", (0, 1, 2, 1, 2, 3)), ("solar", (0, 1, 2, 1, 2, 3)), ("silent", (0, 1, 1, 2, 2, 3))]
)
def test_the_block_map_of_a_grown_model(family: Any, how: str, sources: Sequence[int]) -> None:
    found = beside(family.opened(how, changes.grown(family["first"], how)), family.opened("first"))
    assert found.relation == named.GROWN and found.verdict == "derived"
    assert tuple(block.source for block in found.blocks) == sources
    assert len(found.block_map) == 6 and all(len(row) == 4 for row in found.block_map)
    for block in found.blocks:
        assert block.holm_log10_p is not None and block.holm_log10_p < math.log10(DERIVED_BELOW)


def test_the_block_map_of_a_pruned_model_and_back(family: Any) -> None:
    pruned, whole = family.opened("shallow", changes.shallower(family["first"], [0, 2, 3])), family.opened("first")
    found = beside(pruned, whole)
    assert found.relation == named.PRUNED_DEPTH and [block.source for block in found.blocks] == [0, 2, 3]
    back = beside(whole, pruned)  # whoever is called MODEL: the whole one has a block that is in no other
    assert back.verdict == "derived" and [block.source for block in back.blocks] == [0, None, 1, 2]


@pytest.mark.parametrize(
    "what, sizes", [("neurons", {"intermediate": 112}), ("heads", {"heads": 2}), ("channels", {"hidden": 48})]
)
def test_narrower(family: Any, what: str, sizes: dict[str, int]) -> None:
    made = changes.narrower(family["first"], family.ground.prose, **sizes)
    found = beside(family.opened(f"fewer-{what}", made), family.opened("first"))
    assert found.verdict == "derived" and found.relation == named.PRUNED_WIDTH
    if what != "heads":  # tests that need one width say so
        why = [test.why_not for test in found.tests if not test.ran]
        assert why and all(any(letter.isdigit() for letter in line) for line in why), why


def test_other_widths_of_strangers_say_why_tests_did_not_run(family: Any) -> None:
    made = changes.narrower(family["second"], family.ground.prose, hidden=48)
    found = beside(family.opened("narrow-stranger", made), family.opened("first"))
    assert found.verdict in ("independent", "cannot tell")
    assert any("48" in test.why_not and "64" in test.why_not for test in found.tests)
    for test in found.tests:
        assert test.ran == (test.log10_p is not None)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_merge_shows_both_parents(family: Any, share: float) -> None:
    merged = family.opened(f"merged-{share}", changes.sum_of(family["first"], family["second"], share))
    both = compare_weights(merged, [family.opened("first"), family.opened("second")])
    for found in both:
        assert found.verdict == "derived" and found.relation == named.MERGED
        values = {one.reference: one for one in found.coefficients}
        for name, true in (("first", share), ("second", 1 - share)):
            assert values[name].value == pytest.approx(true, abs=0.05)
            assert values[name].low - 1e-6 <= true <= values[name].high + 1e-6


def test_a_merge_beside_a_stranger(family: Any) -> None:
    merged = family.opened("merged-0.3", changes.sum_of(family["first"], family["second"], 0.3))
    known, stranger = compare_weights(merged, [family.opened("second"), family.opened("student")])
    assert known.verdict == "derived" and stranger.verdict == "independent" and stranger.coefficients == ()


def test_experts_made_of_one_mlp(family: Any) -> None:
    found = beside(family.opened("experts", changes.upcycled(family["first"], 4, 1)), family.opened("first"))
    assert found.verdict == "derived" and found.relation == named.UPCYCLED
    assert [block.source for block in found.blocks] == [0, 1, 2, 3]


def test_another_vocabulary(family: Any) -> None:
    from puna.lineage.zoo.family import _pieces

    made = changes.new_vocabulary(family["first"], _pieces(family.ground))
    family.folder("vocabulary", made, other_tokenizer=True)
    found = beside(family.opened("vocabulary"), family.opened("first"))
    assert found.verdict == "derived" and found.relation == named.VOCABULARY
    assert [block.source for block in found.blocks] == [0, 1, 2, 3]


def test_a_chain_of_three(family: Any) -> None:
    shallow = changes.shallower(family["tuned"], [0, 1, 3])
    last = Changed(changes.units_permuted(shallow.state, 1, shallow.config), shallow.config)
    found = beside(family.opened("chain", last), family.opened("first"))
    assert found.relation == named.PRUNED_DEPTH and [block.source for block in found.blocks] == [0, 1, 3]
    assert "units permuted" in found.also


# Bad input


def test_nan_is_told_and_decides_nothing_by_itself(family: Any) -> None:
    bad = {name: tensor.clone() for name, tensor in family["second"].items()}
    bad["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    found = beside(family.opened("nan", bad), family.opened("first"))
    assert found.verdict == "cannot tell" and found.p_value is None
    assert any("up_proj" in line and "NaN" in line for line in found.missing)
    assert "cannot be told" in found.sentence and any("NaN" in line for line in found.evidence)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    copied = {name: tensor.clone() for name, tensor in family["first"].items()}
    copied["model.layers.1.mlp.up_proj.weight"][3, 3] = float("inf")
    found = beside(family.opened("inf", copied), family.opened("first"))
    assert found.verdict == "derived" and found.decided_by == "identity"  # the other tensors speak
    assert found.share is not None and 0.5 < found.share < 1


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.layers.2.input_layernorm.weight"])
@pytest.mark.parametrize("whose", ["MODEL", "REFERENCE"])
def test_nan_where_the_deciding_tests_do_not_look(family: Any, name: str, whose: str) -> None:
    bad = {name: tensor.clone() for name, tensor in family["second"].items()}
    bad[name].view(-1)[3] = float("nan")
    pair = [family.opened("first"), family.opened(f"nan-{name}", bad)]
    found = beside(*(pair if whose == "REFERENCE" else pair[::-1]))
    assert found.verdict in ("cannot tell", "independent") and any(whose in line for line in found.missing)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("kind", ["mlp.up_proj", "self_attn.q_proj", "mlp.down_proj", "input_layernorm"])
def test_a_zero_tensor_is_told(family: Any, kind: str) -> None:
    zeroed = {
        name: torch.zeros_like(tensor) if f"layers.1.{kind}" in name else tensor
        for name, tensor in family["second"].items()
    }
    found = beside(family.opened(f"zero-{kind}", zeroed), family.opened("first"))
    assert found.verdict in ("independent", "cannot tell") and any("all zeros" in line for line in found.missing)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


def test_a_model_of_zeros_stems_from_nobody(family: Any) -> None:
    nothing = {name: torch.zeros_like(tensor) for name, tensor in family["first"].items()}
    for pair in (
        (family.opened("nothing", nothing), family.opened("first")),
        (family.opened("first"), family.opened("nothing", nothing)),
    ):
        assert beside(*pair).verdict in ("independent", "cannot tell")


def test_constant_matrices_stem_from_nobody(family: Any) -> None:
    flat = {name: torch.full_like(tensor, 0.02) for name, tensor in family["first"].items()}
    other = {name: torch.full_like(tensor, 0.03) for name, tensor in family["first"].items()}
    assert beside(family.opened("flat", flat), family.opened("other-flat", other)).verdict in (
        "independent",
        "cannot tell",
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_missing_shards_are_reported(family: Any, kept: int, tmp_path: Any) -> None:
    from safetensors.torch import save_file

    state = family["tuned"]
    names = list(state)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: files[number % 2] for number, name in enumerate(names)}})
    )
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    if kept:
        save_file({name: state[name].contiguous() for name in names[::2]}, tmp_path / files[0])
    for model, reference in (
        (open_for_comparison(tmp_path), family.opened("first")),
        (family.opened("first"), open_for_comparison(tmp_path)),
    ):
        found = beside(model, reference)
        assert found.verdict == "cannot tell" and found.p_value is None
        assert sum("is not there" in line for line in found.missing) == 2 - kept
        assert all(test.why_not for test in found.tests)


def test_a_tied_head_beside_an_untied_one(family: Any) -> None:
    tied = {name: tensor for name, tensor in family["first"].items() if name != "lm_head.weight"}
    made = Changed(tied, CONFIG.model_copy(update={"tie_word_embeddings": True}))
    found = beside(family.opened("tied", made), family.opened("first"))
    assert found.verdict in ("same", "derived") and found.relation == named.COPY
    back = beside(family.opened("first"), family.opened("tied"))
    assert back.verdict == "derived" and back.share is not None and back.share < 1  # its head is its own
    head = next(one for one in back.tensors if one.kind == "head")
    assert head.difference is not None and head.difference > 0.5


def test_the_comparison_is_the_same_twice(family: Any) -> None:
    one, two = (beside(family.opened("second"), family.opened("first")).model_dump() for _ in "12")
    assert one == two
