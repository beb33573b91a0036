"""The engine's thread: the same text whatever stands beside it, and every way in which a reply may end."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from puna.engine import Engine, Sampling
from puna.engine.batch import Batch, Limits
from puna.engine.loop import Loop, Stream
from puna.engine.request import Closing, Delta, Failed, Full, Request, Shape
from puna.errors import PunaError

GREEDY = Sampling(max_tokens=24, temperature=0.0)
COMMON = "the llama walks over the high grass of the puna, "
TAILS = [
    "and the wind",
    "世界",
    "the",
    "sings. ",
    "羊驼走过高原",
    "a",
    "puna",
    "high grass",
    "你好",
    "over",
    "x",
    "y",
    "walks",
    "草地",
    "z",
    "the end",
]


def prompts_of(engine: Engine, common: str = COMMON) -> list[tuple[int, ...]]:
    return [tuple(engine.tokenizer.encode(common + tail)) for tail in TAILS]


def read(stream: Stream) -> tuple[list[int], str, str | None]:
    ids, text, reason = [], "", None
    for delta in stream.blocking():
        ids += delta.ids
        text += delta.text
        reason = delta.finish_reason or reason
    return ids, text, reason


@pytest.fixture
def loop(engine: Engine) -> Iterator[Loop]:
    made = Loop(engine, Limits(waiting=64)).start()
    yield made
    made.close()
    assert not made.alive


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(running=1),
        Limits(running=5, step_tokens=7),
        Limits(cache_tokens=112),  # one context and a bit: texts are preempted
        Limits(lookup=True),
        Limits(cache_tokens=160, lookup=True, step_tokens=33),
    ],
    ids=["16 together", "one by one", "small steps", "a tiny cache", "lookup", "all at once"],
)
@pytest.mark.parametrize("common", [COMMON, ""], ids=["shared beginning", "nothing shared"])
def test_greedy_text_is_the_same_alone_and_together(engine: Engine, limits: Limits, common: str):
    prompts = prompts_of(engine, common)
    alone = [engine.complete([prompt], GREEDY)[0] for prompt in prompts]
    loop = Loop(engine, limits).start()
    for _ in range(2):  # the second time the beginnings are in the cache
        streams = [loop.submit(Request(prompt, GREEDY)) for prompt in prompts]
        for stream, reply in zip(streams, alone, strict=True):
            assert read(stream) == (reply.ids, reply.text, reply.finish_reason)
    stats = loop.stats()
    loop.close()
    assert (stats.blocks_free, stats.running, stats.waiting) == (stats.blocks, 0, 0)
    assert (stats.accepted_tokens > 0) == limits.lookup
    if common:
        assert stats.cached_tokens > 0
        assert (stats.preemptions > 0) == (limits.cache_tokens is not None)


def test_a_seeded_reply_is_the_same_alone_and_beside_others(engine: Engine, loop: Loop):
    prompts = prompts_of(engine)
    ways = [Sampling(max_tokens=20, temperature=1.1, seed=number, top_k=number * 9) for number in range(len(prompts))]
    together = [
        read(one) for one in [loop.submit(Request(prompt, way)) for prompt, way in zip(prompts, ways, strict=True)]
    ]
    assert together == [read(loop.submit(Request(prompt, way))) for prompt, way in zip(prompts, ways, strict=True)]
    assert len({tuple(ids) for ids, _, _ in together}) > 8


def test_an_aborted_reply_frees_its_blocks_within_a_step(engine: Engine, loop: Loop):
    slow = slowed(engine, loop, 0.02)
    streams = [loop.submit(Request(prompt, Sampling(max_tokens=70, temperature=0.0))) for prompt in prompts_of(engine)]
    readers = [stream.blocking() for stream in streams]
    for reader in readers:
        next(reader)
    running = loop.stats().running
    for stream in streams[1:]:
        stream.abort()
        stream.abort()
    time.sleep(3 * slow)
    stats = loop.stats()
    assert running > 8 and stats.running == 1 and stats.finished["abort"] >= running - 1
    assert stats.blocks - stats.blocks_free <= 6
    for delta in readers[0]:
        last = delta
    assert last.finish_reason and loop.stats().blocks_free == loop.stats().blocks


def slowed(engine: Engine, loop: Loop, seconds: float) -> float:
    """Each step of this loop takes so long at least."""
    step = loop._batch.step

    def slow() -> Iterator[tuple[object, Delta | Failed]]:
        time.sleep(seconds)
        return step()

    loop._batch.step = slow  # type: ignore[method-assign, assignment]
    return seconds


def test_leaving_a_stream_early_aborts_it(engine: Engine, loop: Loop):
    slowed(engine, loop, 0.01)

    async def ask() -> None:
        stream = loop.submit(Request(prompts_of(engine)[0], Sampling(max_tokens=70, temperature=0.0)))
        reader = aiter(stream)
        await anext(reader)
        await reader.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)

    asyncio.run(ask())
    stats = loop.stats()
    assert stats.finished.get("abort") == 1 and stats.blocks_free == stats.blocks


def test_many_event_loops_and_threads_get_their_own_replies(engine: Engine, loop: Loop):
    prompts = prompts_of(engine)
    wanted = [engine.complete([prompt], GREEDY)[0].text for prompt in prompts]
    got: dict[int, list[str]] = {}

    async def one(number: int) -> str:
        return "".join([delta.text async for delta in loop.submit(Request(prompts[number], GREEDY))])

    def ask(thread: int) -> None:
        async def every() -> list[str]:
            return list(await asyncio.gather(*(one(number) for number in range(len(prompts)))))

        got[thread] = asyncio.run(every())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict.fromkeys(range(3), wanted)


def test_a_full_queue_says_so_and_takes_requests_again(engine: Engine):
    loop = Loop(engine, Limits(running=1, waiting=3)).start()
    slowed(engine, loop, 0.02)
    streams, refused = [], 0
    for prompt in prompts_of(engine)[:8]:
        try:
            streams.append(loop.submit(Request(prompt, GREEDY)))
        except Full:
            refused += 1
    assert refused >= 4
    for stream in streams:
        read(stream)
    assert read(loop.submit(Request(prompts_of(engine)[0], GREEDY)))[2]
    loop.close()


def test_what_cannot_be_served_is_refused_before_it_is_queued(engine: Engine, loop: Loop):
    with pytest.raises(PunaError, match=r"has 96 tokens and the model's context is 96"):
        loop.submit(Request((9,) * 96))
    with pytest.raises(PunaError, match="between 0 and"):
        loop.submit(Request((9, engine.config.vocab_size)))
    with pytest.raises(PunaError, match="is empty"):
        Request(())
    with pytest.raises(PunaError, match="top_logprobs: must lie between 0 and 20"):
        Request((9,), top_logprobs=21)
    with pytest.raises(PunaError):
        loop.submit(Request((9,), shape=Shape(json_schema={"$ref": "https://example.com/x.json"})))
    assert loop.stats().finished == {}


def test_one_bad_reply_ends_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """A fault while one text is read, and logits that are no numbers for another: the other replies do not change."""
    prompts = prompts_of(engine)[:5]
    wanted = [engine.complete([prompt], GREEDY)[0].text for prompt in prompts]
    reader = engine.reader
    call = type(reader).__call__
    bad, worse = prompts[1][-1], prompts[3][-1]

    def faulty(self, readings, cache):  # type: ignore[no-untyped-def]
        if any(reading.ids[-1] == bad and reading.start + len(reading.ids) == len(prompts[1]) for reading in readings):
            raise RuntimeError("a kernel's fault")
        logits = call(self, readings, cache)
        row = 0
        for reading in readings:
            if reading.wanted and reading.ids[-1] == worse and reading.start + len(reading.ids) == len(prompts[3]):
                logits[row] = float("nan")
            row += reading.wanted
        return logits

    assert len({prompt[-1] for prompt in prompts}) == 5
    monkeypatch.setattr(type(reader), "__call__", faulty)
    loop = Loop(engine).start()
    streams = [loop.submit(Request(prompt, GREEDY)) for prompt in prompts]
    for number, stream in enumerate(streams):
        if number in (1, 3):
            with pytest.raises(Failed, match="a kernel's fault" if number == 1 else "no finite number"):
                read(stream)
        else:
            assert read(stream)[1] == wanted[number]
    assert loop.stats().finished["error"] == 2 and loop.stats().blocks_free == loop.stats().blocks
    loop.close()


def test_a_fault_of_the_loop_itself_is_told_and_the_next_request_is_served(engine: Engine, loop: Loop, monkeypatch):
    first = prompts_of(engine)[0]
    monkeypatch.setattr(Batch, "step", lambda self: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(Failed, match="broken"):
        read(loop.submit(Request(first, GREEDY)))
    monkeypatch.undo()
    assert read(loop.submit(Request(first, GREEDY)))[1] == engine.complete([first], GREEDY)[0].text


def test_closing_lets_what_runs_end_and_aborts_what_takes_too_long(engine: Engine):
    loop = Loop(engine).start()
    slowed(engine, loop, 0.01)
    stream = loop.submit(Request(prompts_of(engine)[0], GREEDY))
    loop.close(10)
    assert read(stream)[2] in ("stop", "length")
    with pytest.raises(Closing):
        loop.submit(Request((9,), GREEDY))
    with pytest.raises(Closing):
        loop.call(lambda: None)
    loop = Loop(engine).start()
    slowed(engine, loop, 0.05)
    stream = loop.submit(Request(prompts_of(engine)[0], Sampling(max_tokens=70, temperature=0.0)))
    loop.close(0.1)
    assert read(stream)[2] in ("abort", "stop")


def test_work_between_two_steps(engine: Engine, loop: Loop):
    assert loop.call(lambda: threading.current_thread().name).result(5) == "puna-engine"
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 // 0).result(5)
    assert loop.alive


def test_logprobs_are_the_models_own(engine: Engine, loop: Loop):
    prompt = prompts_of(engine)[0]
    stream = loop.submit(
        Request(prompt, Sampling(max_tokens=5, temperature=0.0, logit_bias=((9, 100.0),)), top_logprobs=3)
    )
    deltas = list(stream.blocking())
    ids = [id_ for delta in deltas for id_ in delta.ids]
    assert ids == [9] * 5
    for number, delta in enumerate(deltas):
        with torch.inference_mode():
            hidden = engine.model(torch.tensor([[*prompt, *ids[:number]]]))
            wanted = engine.model.logits(hidden)[0, -1].log_softmax(-1)
        (one,) = delta.logprobs
        assert one.id == 9 and abs(one.logprob - float(wanted[9])) < 1e-4
        assert [id_ for id_, _ in one.top] == wanted.topk(3).indices.tolist()


def test_prompt_logprobs_and_embeddings_are_those_of_the_plain_pass(engine: Engine):
    ids = list(prompts_of(engine)[3])
    with torch.inference_mode():
        hidden = engine.model(torch.tensor([ids]))[0]
        wanted = engine.model.logits(hidden).log_softmax(-1)
    found = engine.prompt_logprobs(ids, 2)
    assert found[0] is None and len(found) == len(ids)
    for place, one in enumerate(found[1:], start=1):
        assert one is not None and abs(one.logprob - float(wanted[place - 1, ids[place]])) < 1e-4
        assert len(one.top) == 2
    mean = torch.nn.functional.normalize(hidden.mean(0), dim=0)
    torch.testing.assert_close(engine.embed(ids), mean, rtol=0, atol=1e-5)
    with pytest.raises(PunaError, match="97 tokens"):
        engine.embed([9] * 97)


def test_the_reply_is_transformers_own(model_folder, engine: Engine, loop: Loop):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    for prompt in prompts_of(engine)[:6]:
        made = model.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, suppress_tokens=engine.banned_ids or None, pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        ended = [place for place, id_ in enumerate(made) if id_ in engine.stop_ids]
        assert read(loop.submit(Request(prompt, GREEDY)))[0] == made[: ended[0] if ended else None]
