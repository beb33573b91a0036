"""The tasks: every byte paid for once, a fair quiz, functions that are parsed and never run."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge import quiz
from puna.judge.bits_per_byte import document_bits, windows
from puna.judge.functions import Function, read_functions
from puna.judge.parse import outcome, parse_score, prompts_of, trim, write_functions


@given(length=st.integers(0, 300), context=st.integers(2, 64))
def test_every_token_is_predicted_once_from_its_own_document(length: int, context: int) -> None:
    ids = list(range(1, length + 1))
    predicted = []
    for prompt, target in windows(ids, 0, context):
        assert len(prompt) + len(target) - 1 <= context
        assert prompt == list(range(target[0] - len(prompt), target[0]))
        assert len(prompt) >= min(target[0], context - max(1, context // 2) + 1)
        predicted += target
    assert predicted == ids


def test_bits_are_those_of_the_plain_forward_pass(engine: Engine) -> None:
    texts = ["def f(x):\n    return x\n", "你好，世界", "a"]
    bits, detail = document_bits(engine, texts)
    for text, measured in zip(texts, bits, strict=True):
        ids = torch.tensor([[engine.tokenizer.eos_id, *engine.tokenizer.encode(text)]])
        with torch.inference_mode():
            logits = engine.model.logits(engine.model(ids[:, :-1]))
        expected = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item() / math.log(2)
        assert measured == pytest.approx(expected, rel=1e-4)
    assert detail["documents_not_lossless"] == 0
    assert detail["stride"] == 64


def test_long_documents_cost_what_their_windows_cost(engine: Engine) -> None:
    text = "for llama in puna:\n    walk(llama)\n" * 40
    (bits,), _ = document_bits(engine, [text])
    rows = list(windows(engine.tokenizer.encode(text), engine.tokenizer.eos_id, engine.context))
    assert len(rows) > 3
    assert bits == pytest.approx(-sum(engine.logprobs(rows)) / math.log(2), rel=1e-5)


def function(name: str, summary: str, split: str = "heldout", kind: str = "function", module: str = "m") -> Function:
    return Function(module, name, name, "(x)", summary, kind, split)


NAMES = [
    f"{a}_{b}"
    for a in ("open", "close", "walk", "sing", "graze", "count")
    for b in ("llama", "sheep", "grass", "wind", "hill")
]
POOL = [function(name, f"Make the {name.replace('_', ' and then the')} do what it does.") for name in NAMES]


def test_quiz_items_are_fair() -> None:
    spoiled = [
        function("seen", "A summary that training has seen too."), function("seen_too", "A summary that training has SEEN too!", "train"),
        function("spells_the_name_out", "Spells the name out."), function("short", "Short."), function("Class", "A class is no function here.", kind="class"),
        function("twin_one", POOL[0].summary.upper()),
    ]  # fmt: skip
    items, aside = quiz.make_items([*POOL, *spoiled], 300, 7)
    assert len(items) == len(POOL)
    assert sum(aside.values()) == len(spoiled) - 1
    wrapped = f"say_it:\n    {POOL[3].summary.upper().replace(' ', chr(10), 2)}"  # on three lines, in capitals
    fewer, reasons = quiz.make_items(POOL, 300, 7, ["other text", wrapped])
    assert len(fewer) == len(POOL) - 1 and reasons == {"summary also in training text": 1}
    for item in items:
        assert item.choices[item.right] == item.function.summary
        assert len({quiz.letters(choice) for choice in item.choices}) == 4
    assert len({item.right for item in items}) == 4
    assert quiz.make_items(POOL, 300, 7)[0] == quiz.make_items(POOL, 300, 7)[0]
    assert quiz.make_items(POOL, 300, 7)[0] != quiz.make_items(POOL, 300, 8)[0]
    assert len(quiz.make_items(POOL, 5, 7)[0]) == 5


def test_distractors_are_of_other_families() -> None:
    family = [function("log2", "Return the base two logarithm."), function("log10", "Return the base ten logarithm."),
              function("__log", "Return the logarithm of old.")]  # fmt: skip
    items, _ = quiz.make_items([*POOL, *family], 300, 1)
    kin = {member.summary for member in family}
    for item in items:
        if item.function.summary in kin:
            assert len(kin & set(item.choices)) == 1


class Oracle(Engine):
    """An engine whose likelihoods are set by hand: each answer by its own prior, plus 5 nats where it is right."""

    def __init__(self, real: Engine, gain: float) -> None:
        super().__init__(real.model, real.tokenizer, real.config)
        self.gain = gain
        self.answers = {function.shown: function.summary for function in POOL}

    def logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int = 8192) -> list[float]:
        result = []
        for prompt, answer in rows:
            question, said = self.tokenizer.decode(prompt), self.tokenizer.decode(answer).strip()
            prior = -3.0 * len(answer) - 40.0 * (sum(map(ord, said)) % 7)  # drowns the gain unless it is taken out
            right = any(f" {name} " in question and self.answers[name] == said for name in self.answers)
            result.append(prior + self.gain * right)
        return result


def test_quiz_scores_by_mutual_information(engine: Engine) -> None:
    items, aside = quiz.make_items(POOL, 300, 7)
    result = quiz.run_quiz(Oracle(engine, 5.0), items, aside, 200, 1)
    assert result is not None
    assert result.score["value"] == 1.0
    assert result.score["p_value"] == 0.25 ** len(items)
    assert result.score["detail"]["accuracy_by_scoring"]["sum"] < 0.7
    assert all(row["chosen"] == row["right"] for row in result.log)
    astray = result.score["detail"]["shared_letters"]["model_where_letters_fail"]
    assert astray["n"] == astray["right"]
    lost = quiz.run_quiz(Oracle(engine, 0.0), items, aside, 200, 1)
    assert lost is not None
    assert lost.score["value"] == 0.0  # four equal choices are no right answer
    assert lost.score["p_value"] == 1.0


def test_shared_letters_baseline() -> None:
    items = [
        quiz.Item(
            function("walk_llama", "-"), ("Walk the llama home.", "Sing.", "Count all sheep.", "Close the gate."), 0
        )
    ]
    assert quiz.credit(quiz.overlap_scores(items), np.array([0])).tolist() == [1.0]
    assert quiz.credit(np.zeros((1, 4)), np.array([2])).tolist() == [0.25]
    assert quiz.letters("Str.Split() 你好!") == "strsplit你好"


def test_questions_longer_than_the_context_are_left_out(engine: Engine) -> None:
    long = [function(name, "羊驼" * 60 + name) for name in NAMES]
    items = [quiz.Item(long[i], tuple(long[(i + j) % 8].summary for j in range(4)), 0) for i in range(8)]
    assert quiz.run_quiz(engine, items, {}, 200, 1) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("    return x + 1", "parses"), ("    y = 1\n\n    return y", "parses"), ("    '再见'\n    return 1", "parses"),
        ("", "empty"), ("   \n", "empty"), ("    pass", "says nothing"), ("    ...", "says nothing"),
        ("    'a string'\n    pass", "says nothing"), ("    return (", "syntax error"), ("  return 1", "syntax error"),
        ("    if x:", "syntax error"), ("    x = '\x00'", "syntax error"), ("    return " + "(" * 500, "syntax error"),
    ],
)  # fmt: skip
def test_outcome(body: str, expected: str) -> None:
    assert outcome('def f(x):\n    """Add."""\n', body) == expected


def test_trim_ends_at_the_left_margin_and_drops_a_cut_line() -> None:
    assert trim("    return 1\n\ndef g():\n    pass", cut_short=False) == "    return 1"
    assert trim("    a = 1\n    b = a +", cut_short=True) == "    a = 1"
    assert trim("    a = 1\n    b = a", cut_short=False) == "    a = 1\n    b = a"
    assert trim("return 1", cut_short=False) == ""
    assert trim("    half a line", cut_short=True) == ""


def test_prompts_are_valid_python_of_heldout_functions(corpus: Path) -> None:
    functions = read_functions(corpus)
    assert functions is not None
    odd = [Function("m", "bad", "bad", "(x=<object>)", "Bad signature.", "function", "heldout"),
           Function("m", "quote", "quote", "(x)", 'Says """ and \\ too', "function", "heldout"),
           Function("m", "seen", "seen", "(x)", "Seen.", "function", "train")]  # fmt: skip
    prompts = prompts_of([*functions, *odd], 500, 1)
    assert any('\\"\\"\\"' in prompt for prompt in prompts)
    assert not any("def bad(" in prompt or "def seen(" in prompt for prompt in prompts)
    assert prompts_of(functions, 5, 1) == prompts_of(functions, 5, 1)
    assert len(prompts_of(functions, 5, 1)) == 5


def test_functions_are_written_and_counted(engine: Engine, corpus: Path) -> None:
    functions = read_functions(corpus)
    assert functions is not None
    written = write_functions(engine, prompts_of(functions, 6, 1), 1)
    assert written
    assert written == write_functions(engine, prompts_of(functions, 6, 1), 1)
    score = parse_score(written)
    assert score["n"] == len(written) == sum(score["detail"]["outcomes"].values())
    assert score["value"] == pytest.approx(score["detail"]["outcomes"].get("parses", 0) / score["n"], abs=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"module": "m"}',
        '{"module":1,"qualname":"q","name":"n","signature":"","summary":"","kind":"","split":""}',
        "[" * 10_000,
    ],
)
def test_malformed_functions_name_their_line(tmp_path: Path, line: str) -> None:
    good = '{"module":"m","qualname":"q","name":"n","signature":null,"summary":"s","kind":"function","split":"train"}'
    (tmp_path / "functions.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(PunaError, match=r"functions\.jsonl:2: "):
        read_functions(tmp_path)
