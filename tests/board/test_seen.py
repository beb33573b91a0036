"""Reports of contamination on a page: ours readable, a stranger's harmless."""

from puna.board.seen import Seen, seen

OWN = {
    "says": "2 of 9 items stand in the text.", "inherited": ["It was started from Alpaca."], "missing": ["The corpus is not here."],
    "found": [
        {"id": "q1", "share": 1.0, "documents": 3, "places": [{"corpus": "corpus-1a", "source": "a.txt", "document": "d7",
                                                               "before": "so ", "passage": "<b>what</b> is grass", "after": "?"}]},
        {"id": "q2", "share": 0.8, "documents": 1, "places": [{"source": "b.txt"}]},
    ],
    "found_not_named": 4,
}  # fmt: skip


def test_sentences_passages_and_what_is_not_shown() -> None:
    found = seen(
        {
            "own_text": OWN,
            "likelihood": {"method": "Min-K%++", "auc": 0.5, "beside": [{"control": "c", "difference": 0.1}]},
        }
    )
    assert found.says == ("2 of 9 items stand in the text.", "It was started from Alpaca.", "The corpus is not here.")
    first, second = found.passages
    assert (first.item, first.share, first.text, first.before, first.after) == (
        "q1",
        1.0,
        "<b>what</b> is grass",
        "so ",
        "?",
    )
    assert first.document == "corpus-1a, a.txt, d7; 3 documents in all"
    assert (second.document, second.text) == ("b.txt", "")
    assert found.more == 4
    assert "likelihood, auc" in {name.lower() for name, _ in found.rows}
    assert any("control" in name and value == "c" for name, value in found.rows)


def test_nothing_is_nothing() -> None:
    assert seen({}) == Seen() and not seen({})


def test_a_strangers_report_does_no_harm() -> None:
    for bad in ({"own_text": 5}, {"own_text": {"says": 3, "found": "x", "inherited": {"a": 1}}},
                {"own_text": {"found": [1, {"places": 2}, {"places": [{}], "share": "x"}, {"places": [None]}]}}):  # fmt: skip
        assert seen(bad).passages == () and seen(bad).says == ()
