"""A model behind an endpoint gives the same numbers as the model itself, whatever manners its server has."""

import math
import shutil
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.asking.answers import Answers
from puna.judge.asking.endpoint import RemoteModel, connect, endpoint_lm
from puna.judge.asking.wire import Endpoint, Patience, Wire

sys.path.insert(0, str(Path(__file__).parent))  # tests are imported as files, not as a package
from tests_judge_endpoint_server import Manner, Served, once, send

STORIES = Path(__file__).resolve().parents[4] / "shared" / "data" / "weights" / "stories260K" / "stories260K.bin"
pytestmark = pytest.mark.skipif(not STORIES.is_file(), reason="the shared weights are not here")
QUICK = Patience(seconds=20, tries=2, wait=0.01)

PAIRS = [
    ("Once upon a time", " there was a little girl"),
    ("Once upon a time", " zebra quantum"),
    ("Once upon a time", ", there"),  # what greedy decoding writes
    ("Tom said ", "hello"),  # the space melts into the next token
    ("She was hap", "py."),  # a token straddles the border
    ("小女孩", "喜欢唱歌。"),  # three tokens a character
    ("他说 hi", "你好a"),
    ("Lily likes café", "é and tea"),
    ("", "Lily had a dog."),
    ("   ", "Lily"),
]


@pytest.fixture(scope="module")
def stories() -> Engine:
    return Engine.load(STORIES, device="cpu")


def split(engine: Engine, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The tokens of both: those of the whole, cut where the context's own tokens end."""
    whole, alone = engine.begin(context + continuation), engine.begin(context.rstrip())
    shared = 0
    while shared < min(len(whole), len(alone)) and whole[shared] == alone[shared]:
        shared += 1
    return whole[: max(1, shared)], whole[max(1, shared) :]


def own(engine: Engine, context: str, continuation: str) -> float:
    return engine.logprobs([split(engine, context, continuation)])[0]


def remote(served: Served, model: str = "stories", **more: Any) -> RemoteModel:
    return RemoteModel(Wire(Endpoint(served.url, model), patience=QUICK), **more)


MANNERS = {
    "openai": Manner(),
    "bytes": Manner(offsets="bytes"),
    "vllm": Manner(offsets="lengths", parts="\ufffd"),
    "no offsets": Manner(offsets="none", parts="\ufffd"),
    "at least one token": Manner(zero=False),
    "prompt_logprobs": Manner(echo=False, prompt_logprobs=True),
    "llama.cpp": Manner(echo=False, native=True),
}


@pytest.mark.parametrize("manner", MANNERS.values(), ids=MANNERS.keys())
def test_likelihoods_are_the_models_own(stories: Engine, manner: Manner) -> None:
    with Served(stories, manner) as served:
        model = remote(served)
        found = model.likelihoods(PAIRS)
        for pair, (nats, greedy) in zip(PAIRS, found, strict=True):
            assert nats == pytest.approx(own(stories, *pair), abs=1e-3), pair
            assert greedy == (pair[1] == ", there"), pair
        text = "Once upon a time there was a cat. 从前有一只猫。"
        assert model.rolling([text, ""]) == [pytest.approx(own(stories, "", text), abs=1e-3), 0.0]
        assert not model.truncated and not model.unscored and not model.greedy_unknown


def test_the_same_as_lm_evals_way_through_our_own_model(stories: Engine) -> None:
    """PunaLM follows lm_eval's rules for a model on this machine."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from puna.judge.asking.local import PunaLM

    requests = [
        Instance("loglikelihood", {}, pair, number, metadata=("t", number, 1))
        for number, pair in enumerate(PAIRS[:4] + PAIRS[5:6] + PAIRS[8:9])
    ]
    rolling = [Instance("loglikelihood_rolling", {}, ("Tom ran home. 他跑了。",), 0, metadata=("t", 0, 1))]
    written = [
        Instance(
            "generate_until", {}, ("Once upon a time", {"until": ["."], "max_gen_toks": 12}), 0, metadata=("t", 0, 1)
        )
    ]
    with Served(stories) as served:
        ours, theirs = PunaLM(stories), endpoint_lm(remote(served))
        for mine, far in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True):
            assert far == (pytest.approx(mine[0], abs=1e-3), mine[1])
        # lm_eval puts a begin token before the one that the tokenizer puts there, and counts the second; a server does not.
        begin = stories.tokenizer.bos_id
        assert begin is not None
        second = stories.logprobs([([begin, begin], stories.tokenizer.encode(rolling[0].args[0])), ([begin], [begin])])
        assert ours.loglikelihood_rolling(rolling) == [pytest.approx(sum(second), abs=1e-3)]
        assert theirs.loglikelihood_rolling(rolling) == [pytest.approx(own(stories, "", rolling[0].args[0]), abs=1e-3)]
        assert theirs.generate_until(written) == ours.generate_until(written)


def test_a_long_text_is_read_in_windows(stories: Engine) -> None:
    text = "Tom and Lily went to the park. They saw a big red ball. " * 12 + "他们很高兴。" * 6
    with Served(stories, Manner(context=64)) as served:
        model = remote(served)
        assert model.context == 64
        (found,) = model.rolling([text])
    whole = own(stories, "", text)
    assert whole > found > 1.5 * whole  # each character once, with less before it
    with Served(stories) as served:
        silent = remote(served)
        silent._teller.find_way()
        served.faults = [
            once(lambda handler: send(handler, 400, {"error": {"message": "maximum context length is 64"}}), times=99)
        ]
        with pytest.raises(PunaError, match="how long its context is"):
            silent.rolling([text])


def test_what_is_too_long_is_cut_from_the_left_and_counted(stories: Engine) -> None:
    context, continuation = "Tom and Lily went to the park. " * 20, " They were happy."
    with Served(stories, Manner(context=100)) as served:
        model = remote(served)
        ((nats, _),) = model.likelihoods([(context, continuation)])
        (text,) = model.written([(context, {"until": ["."], "max_gen_toks": 10})])
    assert nats == pytest.approx(own(stories, context[-200:], continuation), abs=1.0) and text
    tokens = len(stories.begin(context + continuation))
    assert tokens - 100 <= model.truncated[context, continuation] <= tokens - 70
    assert model.truncated[context] > 0


def test_without_a_begin_token_the_first_token_is_left_out_and_counted(stories: Engine) -> None:
    with Served(stories, Manner(begin=False)) as served:
        model = remote(served)
        ((nats, _),) = model.likelihoods([("", "Lily had a dog.")])
        prompt, ids = split(stories, "", "Lily had a dog.")
        assert nats == pytest.approx(stories.logprobs([([*prompt, ids[0]], ids[1:])])[0], abs=1e-3)
        assert model.unscored == {("", "Lily had a dog."): 1}
        with pytest.raises(PunaError, match="only token has no likelihood"):
            model.likelihoods([("", "a")])
        begun = remote(served, bos="\n")
        alone, whole = stories.begin("\n"), stories.begin("\nLily had a dog.")
        expected = stories.logprobs([(alone, whole[len(alone) :])])[0]
        assert begun.likelihoods([("", "Lily had a dog.")])[0][0] == pytest.approx(expected, abs=1e-3)
        assert not begun.unscored


def test_answers_are_written_up_to_a_stop(stories: Engine) -> None:
    with Served(stories) as served:
        model = remote(served)
        prompts = [
            ("Once upon a time", {"until": ["\n", "!", "?", "#", "."], "max_gen_toks": 30}),
            ("Lily", {"until": "the", "max_gen_toks": 8}),
        ]
        first, second = model.written(prompts)
        assert first == ", there was a little girl named Lily" and "the" not in second
        assert len(served.posts("/v1/completions")[0]["stop"]) <= 4
        talker = remote(served, chat=True)
        talk = talker.talk([{"role": "user", "content": "Once upon"}, {"role": "assistant", "content": "a time"}])
        assert talker.written([(talk, {"max_gen_toks": 4})]) != [""]
        assert [turn["role"] for turn in served.posts("/v1/chat/completions")[0]["messages"]] == ["user", "assistant"]
        with pytest.raises(PunaError, match="chat completions"):
            talker.likelihoods(PAIRS[:1])


def test_which_model_is_asked(stories: Engine) -> None:
    with Served(stories) as served:
        assert remote(served, "").model == "stories"
        with pytest.raises(PunaError, match=r"no model 'story'.*stories"):
            remote(served, "story")
        served.manner = Manner(models=tuple(f"m{number:03}" for number in range(40)))
        with pytest.raises(PunaError, match=r"several models.*m009, \.\.\."):
            remote(served, "")
        served.faults = [once(lambda handler: send(handler, 404, {"error": "no"}), times=9, path="/v1/models")]
        assert remote(served, "m001").model == "m001"
        with pytest.raises(PunaError):
            remote(served, "")
        with pytest.raises(PunaError, match="`other` does not exist"):
            remote(served, "other").likelihoods(PAIRS[:1])


def test_facts_say_that_the_weights_are_unseen(stories: Engine) -> None:
    with Served(stories, Manner(context=512)) as served:
        facts = remote(served).facts()
    assert (facts.kind, facts.digest, facts.parameters, facts.context) == ("endpoint", None, None, 512)
    assert "not seen" in facts.notes[0]


def test_answers_are_kept_for_one_run_unless_asked(stories: Engine, tmp_path: Path) -> None:
    with Served(stories) as served, Answers(tmp_path / "answers.sqlite") as answers:
        model = remote(served, answers=answers)
        first = model.likelihoods(PAIRS[:3])
        asked = len(served.asked)
        assert model.likelihoods(PAIRS[:3]) == first and len(served.asked) == asked
        remote(served, answers=answers).likelihoods(PAIRS[:3])
        assert len(served.asked) > asked + 1  # another run: the endpoint may be another model by now
        remote(served, answers=answers, keep=True).likelihoods(PAIRS[:3])
        asked = len(served.asked)
        assert remote(served, answers=answers, keep=True).likelihoods(PAIRS[:3]) == first
        assert len(served.asked) == asked + 1  # only /models


def told(logprobs: Any, text: str = "The cat sat on the mat. The dog sat") -> Any:
    return lambda handler: send(handler, 200, {"choices": [{"text": text, "logprobs": logprobs}]})


def lists(**changes: Any) -> dict[str, Any]:
    words = ["The", " cat", " sat", " on", " the", " mat.", " The", " dog", " sat"]
    values = {"tokens": words, "token_logprobs": [None] + [-1.0] * 8, "top_logprobs": [None] + [{"x": -1.0}] * 8}
    return {**values, **changes}


@pytest.mark.parametrize(("answer", "words"), [
    (told(lists(token_logprobs=[None, "x"] + [-1.0] * 7)), "no number"),
    (told(lists(token_logprobs=[None, True] + [-1.0] * 7)), "no number"),
    (told(lists(token_logprobs=[None, 5.0] + [-1.0] * 7)), "more than certain"),
    (told(lists(token_logprobs=[None, -1.0])), "differ in length"),
    (told(lists(tokens=[1] * 9)), "tokens"),
    (told([1]), "logprobs"),
    (told(lists(), text="Another text"), "another text"),
    (lambda handler: send(handler, 200, {"choices": []}), "choices"),
    (lambda handler: send(handler, 200, {"choices": [{"logprobs": lists(), "text": 3}]}), "text"),
    (lambda handler: send(handler, 200, b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": [NaN]}}]}'), "NaN"),
    (told(None), "gives no log-probabilities"),
    (told({"content": [{"token": "x", "logprob": -1.0}]}), "gives no log-probabilities"),
    (lambda handler: send(handler, 400, {"error": {"message": "echo is not supported"}}), "echo is not supported"),
    (lambda handler: send(handler, 401, {"error": {"message": "who are you"}}), "who are you"),
])  # fmt: skip
def test_replies_that_are_no_likelihoods_are_refused_in_plain_words(stories: Engine, answer: Any, words: str) -> None:
    with Served(stories) as served:
        model = remote(served)
        served.faults = [
            once(answer, times=99),
            once(lambda handler: send(handler, 404, {}), times=9, path="/tokenize"),
        ]
        with pytest.raises(PunaError, match=words) as error:
            model.likelihoods([("The cat", " sat")])
        assert "\n" not in str(error.value)


def test_a_null_in_the_middle_is_refused(stories: Engine) -> None:
    with Served(stories) as served:
        model = remote(served)
        model._teller.find_way()
        served.faults = [once(told(lists(token_logprobs=[None, -1.0, None] + [-1.0] * 6)))]
        with pytest.raises(PunaError, match="null"):
            model.likelihoods([("The cat", " sat on the mat. The dog sat")])
        assert math.isfinite(model.likelihoods([("The cat", " sat")])[0][0])  # and asked again it goes on


def test_greedy_that_is_not_told_fails_only_tasks_that_count_it(stories: Engine) -> None:
    pytest.importorskip("lm_eval")

    def without(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path == "/v1/completions":
            told(lists(top_logprobs=None))(handler)
            return True
        return False

    def request(number: int) -> Any:
        return SimpleNamespace(args=("The cat", " sat on the mat. The dog sat"), task_name="t", doc_id=number)

    with Served(stories, faults=[without]) as served:
        lm = endpoint_lm(remote(served))
        assert lm.loglikelihood([request(0), request(0)]) == [(-7.0, False)] * 2
        with pytest.raises(PunaError, match="likeliest"):
            lm.loglikelihood([request(0)])


def test_busy_then_well(stories: Engine) -> None:
    with Served(stories) as served:
        model = remote(served)
        model._teller.find_way()
        served.faults = [once(lambda handler: send(handler, 429, {"error": "slow down"}), times=1)]
        assert model.likelihoods(PAIRS[:1])[0][0] == pytest.approx(own(stories, *PAIRS[0]), abs=1e-3)


@pytest.mark.skipif(shutil.which("llama-server") is None, reason="llama.cpp's server is not installed")
def test_llama_cpps_own_server(stories: Engine, tmp_path: Path) -> None:
    import subprocess
    import time

    from puna.model.formats.gguf_write import write_gguf  # noqa: F401

    file = tmp_path / "stories.gguf"
    subprocess.run([sys.executable, "-m", "puna", "convert", str(STORIES), str(file)], check=True)
    server = subprocess.Popen(["llama-server", "-m", str(file), "--port", "18099", "-c", "512"])
    try:
        for _ in range(100):
            try:
                model = connect(Endpoint("http://127.0.0.1:18099/v1"), None)
                break
            except PunaError:
                time.sleep(0.2)
        for pair, (nats, _) in zip(PAIRS[:3], model.likelihoods(PAIRS[:3]), strict=True):
            assert nats == pytest.approx(own(stories, *pair), abs=2e-2)
    finally:
        server.terminate()
        server.wait()
