"""Scores with shared work are those of plain scoring; a row's neighbours, and the plan, change nothing but rounding."""

import math
import random
from collections.abc import Sequence

import pytest
import torch

from puna.engine import prefixes
from puna.engine.packed import Reader
from puna.engine.prefixes import Score, score, scores
from puna.engine.scoring import Row, logprobs
from puna.errors import PunaError
from puna.model.config import ModelConfig
from puna.model.decoder import Decoder

VOCAB, CONTEXT = 97, 160
TOLERANCE = 1e-4  # nats of a row's sum, fp32: what `prefixes` states
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 8, "max_position_embeddings": CONTEXT}  # fmt: skip
KINDS = {
    "llama": {},
    "qwen3": {"qk_norm": True, "tie_word_embeddings": True},
    "qwen2": {"attention_bias": True},
    "mistral": {"sliding_window": 24},
    "no groups": {"num_key_value_heads": 4},
}


def model_of(kind: str) -> Decoder:
    model = Decoder(ModelConfig(vocab_size=VOCAB, **{**SHAPE, **KINDS[kind]}))
    model.init_weights(seed=1)
    with torch.no_grad():  # as made, its answers are nearly even: sharper ones show more
        model.head_weight().mul_(8.0)
    return model.eval()


def benchmark(seed: int = 0) -> list[Row]:
    """What a benchmark asks: examples shared by questions, four answers each, sentences, partial contexts, and doubles."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(VOCAB) for _ in range(count)]

    rows: list[Row] = []
    for _ in range(3):
        examples = ids(50)
        for _ in range(6):
            question = examples + ids(draw.randint(3, 30))
            one_token = draw.random() < 0.4
            rows += [(question, ids(1 if one_token else draw.choice([1, 2, 8, 20]))) for _ in range(4)]
    start = ids(6)
    rows += [([1], start + ids(draw.randint(1, 12))) for _ in range(10)]
    rows += [([*ids(80), 7], ids(3)) for _ in range(2)]
    rows += [rows[0], (rows[0][0], [*rows[0][1], 5]), (rows[0][0][:60], ids(2))]
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_tokens", [8192, 300, 1])
def test_they_are_the_scores_of_plain_scoring(kind: str, batch_tokens: int) -> None:
    model, rows = model_of(kind), benchmark()
    plain = logprobs(model, rows, 8192, CONTEXT)
    shared = score(model, rows, CONTEXT, batch_tokens)
    assert max(abs(one.loglikelihood - two) for one, two in zip(shared, plain, strict=True)) < TOLERANCE
    assert [one.greedy for one in shared] == [greedy_by_hand(model, row) for row in rows]


def greedy_by_hand(model: Decoder, row: Row) -> bool:
    prompt, continuation = row
    with torch.inference_mode():
        logits = model.logits(model(torch.tensor([[*prompt, *continuation][:-1]])))[0, len(prompt) - 1 :]
    return bool((logits.argmax(-1) == torch.tensor(continuation)).all())


def test_a_greedy_continuation_is_told_as_one() -> None:
    model = model_of("llama")
    prompt = [3, 1, 4, 1, 5]
    ids = list(prompt)
    for _ in range(4):
        with torch.inference_mode():
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    other = [*ids[5:-1], (ids[-1] + 1) % VOCAB]
    assert [one.greedy for one in score(model, [(prompt, ids[5:]), (prompt, other)], CONTEXT)] == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_is_the_row_in_company(kind: str) -> None:
    model, rows = model_of(kind), benchmark(seed=2)
    together = score(model, rows, CONTEXT)
    for row, one in zip(rows, together, strict=True):
        [alone] = score(model, [row], CONTEXT)
        assert alone.loglikelihood == pytest.approx(one.loglikelihood, abs=TOLERANCE)
        assert alone.greedy == one.greedy


def tokens_read(model: Decoder, rows: Sequence[Row], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places that each pass read."""
    passes: list[int] = []
    read = Reader._read

    def counted(self: Reader, packs: Sequence[prefixes.Pack], *more: object) -> torch.Tensor:
        passes.append(sum(pack.ids.numel() for pack in packs))
        return read(self, packs, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_read", counted)
        score(model, rows, CONTEXT)
    return passes


def test_answers_of_one_token_cost_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = list(range(40))
    assert tokens_read(model_of("llama"), [(prompt, [token]) for token in range(20)], monkeypatch) == [40]


def test_the_answers_of_a_question_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = list(range(80))
    rows = [(prompt, [token] * 5) for token in range(4)]
    assert tokens_read(model_of("llama"), rows, monkeypatch) == [80 + 4 * 4]


def test_examples_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, model = list(range(90)), model_of("llama")
    few = [([*examples, token, token + 1, token + 2], [answer]) for token in range(20) for answer in (0, 1)]
    assert tokens_read(model, few, monkeypatch) == [90 + 20 * 3]  # short ends: branches of one trunk
    many = [([*examples, token, *range(59)], [answer, 1]) for token in range(20) for answer in (0, 1)]
    assert tokens_read(model, many, monkeypatch) == [90, 20 * (60 + 2)]  # long ones: a prefix for all


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_value_that_is_no_number_stays_with_its_rows(kind: str) -> None:
    model, rows = model_of(kind), benchmark()
    plain = logprobs(model, rows, 8192, CONTEXT)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = math.nan
    found = score(model, rows, CONTEXT)
    touched = [7 in [*prompt, *continuation][:-1] for prompt, continuation in rows]
    assert any(touched) and not all(touched)
    for one, wanted, bad, (prompt, continuation) in zip(found, plain, touched, rows, strict=True):
        whole = [*prompt, *continuation]
        seen = 24 if kind == "mistral" else CONTEXT  # three layers of a window reach further back than this
        if not bad:
            assert one.loglikelihood == pytest.approx(wanted, abs=TOLERANCE)
        elif 7 in whole[:-1][-seen:]:
            assert math.isnan(one.loglikelihood) and not one.greedy


def test_an_infinite_logit_is_told_as_no_number() -> None:
    for value in (math.inf, -math.inf, math.nan):
        model = model_of("llama")
        with torch.no_grad():
            assert model.lm_head is not None
            model.lm_head.weight[3] = value
        found = score(model, [([1, 2], [5, 6]), ([1, 2], [3])], CONTEXT)
        assert all(math.isnan(one.loglikelihood) and not one.greedy for one in found)


def test_the_figures_of_each_token() -> None:
    model, rows = model_of("qwen3"), benchmark()[:30]
    for number, one in scores(model, rows, CONTEXT, tokens=True):
        prompt, continuation = rows[number]
        with torch.inference_mode():
            hidden = model(torch.tensor([[*prompt, *continuation][:-1]]))[0, len(prompt) - 1 :]
            logs = model.logits(hidden).double().log_softmax(-1)
        p = logs.exp()
        mean = (p * logs).sum(-1)
        deviation = ((p * logs**2).sum(-1) - mean**2).sqrt()
        assert one.tokens is not None
        assert one.tokens.logprobs == pytest.approx(
            logs.gather(-1, torch.tensor(continuation)[:, None])[:, 0].tolist(), abs=1e-4
        )
        assert one.tokens.means == pytest.approx(mean.tolist(), abs=1e-4)
        assert one.tokens.deviations == pytest.approx(deviation.tolist(), abs=1e-4)
        assert sum(one.tokens.logprobs) == pytest.approx(one.loglikelihood, abs=1e-6)


def test_rows_that_cannot_be_scored_are_refused() -> None:
    model = model_of("llama")
    assert score(model, [], CONTEXT) == []
    with pytest.raises(ValueError, match="empty prompt"):
        score(model, [([], [1])], CONTEXT)
    with pytest.raises(ValueError, match="empty continuation"):
        score(model, [([1], [])], CONTEXT)
    with pytest.raises(PunaError, match=f"row 1 has {CONTEXT + 2} tokens"):
        score(model, [([1], [2]), ([1] * CONTEXT, [2, 3])], CONTEXT)
    assert len(score(model, [([1] * CONTEXT, [2])], CONTEXT)) == 1  # the last token is scored and never fed


def test_half_precision_weights() -> None:
    rows = benchmark()
    wide, half = model_of("qwen3"), model_of("qwen3").bfloat16()
    for one, two in zip(score(wide, rows, CONTEXT), score(half, rows, CONTEXT), strict=True):
        assert two.loglikelihood == pytest.approx(one.loglikelihood, rel=0.05, abs=0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_same(kind: str) -> None:
    rows = benchmark()
    here = score(model_of(kind), rows, CONTEXT)
    there = score(model_of(kind).cuda(), rows, CONTEXT)
    for one, two in zip(here, there, strict=True):
        assert isinstance(two, Score)
        assert two.loglikelihood == pytest.approx(one.loglikelihood, abs=1e-3)
