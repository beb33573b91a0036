"""The terminal's view: 80 columns for every kind of finding, p-values with their nulls, nothing hidden in a name."""

import pytest

from puna.lineage.verdict import (
    Architecture,
    Behaviour,
    Block,
    Coefficient,
    DataLayer,
    Layers,
    Licence,
    Lineage,
    Names,
    Rate,
    Renamed,
    TensorDifference,
    TokenizerLayer,
    Verdict,
    Weights,
)  # fmt: skip
from puna.lineage.verdict import Test as OneTest
from puna.report.lineage_page import lineage_html
from puna.report.lineage_text import lineage_text, power_of_ten, runs_of_blocks, verdict_words

HOSTILE = "\x1b[31mred\x1b[0m\u202e\x07<script>alert(1)</script>" + "ü" * 20 + " 字" * 40
LONG = "a-model-with-a-very-long-name/" * 6
NULL = "the places of one model's hidden units mean nothing to the other: any other order would be as likely"


def weights(verdict: Verdict, layers: int = 4) -> Weights:
    derived = verdict in ("same", "derived")
    tests = (
        OneTest(name="phi_U", title="phi_U: units matched to their own place", null=NULL, exact=True, p_value=0.0, log10_p=-12345.6,
             false_positives=Rate(hits=0, n=528, low=0.0, high=0.007, of="pairs"), power=Rate(hits=12345, n=12345, low=0.99, high=1.0)),
        OneTest(name="phi_MATCH", title="a title far too long for its column of the table " * 3, null=NULL, p_value=0.3, log10_p=-0.52),
        OneTest(name="norms", title="norm gains, centred", why_not="the streams are 4,096 and 8,192 wide " * 5),
    )  # fmt: skip
    blocks = tuple(
        Block(block=n, source=n if derived and n != 1 else None, log10_p=-30.0, holm_log10_p=-28.0)
        for n in range(layers)
    )
    tensors = tuple(
        TensorDifference(
            name=f"model.layers.{n}.up",
            reference="x",
            kind="up",
            layer=n,
            difference=0.5,
            cosine=0.8,
            undone=(f"times {n}.5", "units permuted"),
        )
        for n in range(layers)
    )
    return Weights(
        verdict=verdict, sentence=f"A sentence about {HOSTILE} and {LONG}", evidence=(LONG, HOSTILE), null=NULL, p_value=1e-300, log10_p=-300.0,
        decided_by="phi_U", relation="grown in depth" if verdict == "derived" else "copy" if verdict == "same" else None, share=0.9 if derived else None,
        blocks=blocks, block_map=tuple(tuple(-float(3 * (i == j)) * 10 for j in range(layers)) for i in range(layers)), tests=tests,
        tensors=tensors, coefficients=(Coefficient(reference=LONG + HOSTILE, value=0.3, low=0.29, high=0.31),) if derived else (),
        behaviour=Behaviour(agreement=0.5, contexts=100, controls={HOSTILE: 0.2, LONG: 0.3}, sentence=LONG + " alike"),
        missing=("model-00001-of-00030.safetensors is not there (12 tensors)",),
    )  # fmt: skip


def made(verdict: Verdict, layers: int = 4, name: str = HOSTILE) -> Lineage:
    said = {"verdict": verdict, "sentence": HOSTILE, "evidence": (LONG, HOSTILE)}
    renames = (Renamed(model=LONG, reference=HOSTILE, tensors=4), Renamed(model="b", reference="c", tensors=4))
    return Lineage(model=name, reference=LONG, layers=Layers(
        names=Names.model_validate(said | {"renames": renames}), architecture=Architecture.model_validate(said),
        tokenizer=TokenizerLayer.model_validate(said), weights=weights(verdict, layers), data=DataLayer.model_validate(said),
        licence=Licence.model_validate(said),
    ))  # fmt: skip


VERDICTS: tuple[Verdict, ...] = ("same", "derived", "independent", "cannot tell", "not decidable from outside")


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("layers", [1, 4, 36, 80])
def test_no_line_is_wider_than_80_columns(verdict: Verdict, layers: int) -> None:
    lines = lineage_text(made(verdict, layers)).splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_nothing_of_a_name_steers_a_terminal(verdict: Verdict) -> None:
    said = lineage_text(made(verdict))
    assert all(letter == "\n" or letter.isprintable() for letter in said)
    assert "\u202e" not in said and "⟨U+202E⟩" in said


def test_every_layer_has_its_verdict_first_and_its_evidence_after() -> None:
    said = lineage_text(made("derived"))
    top = said.split("\n\n")[1].splitlines()
    assert [line.split("  ")[0] for line in top] == [
        "Names",
        "Architecture",
        "Tokenizer",
        "Weights",
        "Data, recipe",
        "Licence",
    ]
    assert top[3].endswith("derived: grown in depth")
    assert NULL in " ".join(said.split()) and "1e-12346" in said and "0/528" in said
    assert "not run: norm gains, centred" in said
    assert "0 from 0, 1 from none, 2-3 from 2-3" in said
    assert "symmetric" in said and "symmetric" not in lineage_text(made("independent"))


def test_the_words_of_a_verdict() -> None:
    assert verdict_words(made("same"), "names") == "same after 2 renames"
    assert verdict_words(made("same"), "weights") == "same"
    assert verdict_words(made("derived"), "weights") == "derived: grown in depth"
    assert verdict_words(made("independent"), "weights") == "independent"


def test_powers_of_ten() -> None:
    assert [power_of_ten(value) for value in (None, 0.0, -0.5, -2.7, -12.2, -310.4)] == [
        "-",
        "1",
        "0.32",
        "0.002",
        "1e-12",
        "1e-310",
    ]


@pytest.mark.parametrize(
    "sources, words",
    [
        ((0, 1, 2, 3), "0-3 from 0-3"), ((0, 1, 2, 1, 2, 3), "0-2 from 0-2, 3-5 from 1-3"), ((None, None, 2), "0-1 from none, 2 from 2"),
        ((0, 0, 1), "0 from 0, 1-2 from 0-1"), ((3, 2), "0 from 3, 1 from 2"), ((5,), "0 from 5"),
    ],
)  # fmt: skip
def test_runs_of_blocks(sources: tuple[int | None, ...], words: str) -> None:
    blocks = tuple(Block(block=n, source=source) for n, source in enumerate(sources))
    assert runs_of_blocks(weights("derived").model_copy(update={"blocks": blocks})) == words


def test_the_same_finding_makes_a_page() -> None:
    for verdict in VERDICTS:
        assert "<svg" in lineage_html([made(verdict)])
