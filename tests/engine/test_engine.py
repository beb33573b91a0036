"""Generation against a plain loop without a cache; batches against single rows; ends, limits, damaged folders."""

import shutil
from pathlib import Path

import pytest
import torch

from puna.engine import Engine, Sampling
from puna.errors import PunaError
from puna.files import file_sha256, write_json

GREEDY = Sampling(max_tokens=12, temperature=0.0)
PROMPTS = ["the llama", "你好", "the wind sings over the high grass of the puna", "羊驼走过", "a"]


def ids_of(engine: Engine, texts: list[str]) -> list[list[int]]:
    return [engine.tokenizer.encode(text) for text in texts]


def plain_greedy(engine: Engine, prompt: list[int], count: int) -> list[int]:
    """The definition: the whole text through the model for every token, no cache, no batch."""
    ids = list(prompt)
    banned = [engine.tokenizer.pad_id, engine.tokenizer.im_start_id]
    banned += range(engine.tokenizer.vocab_size, engine.config.vocab_size)
    for _ in range(count):
        with torch.inference_mode():
            logits = engine.model.logits(engine.model(torch.tensor([ids])))[0, -1]
        logits = logits.index_fill(0, torch.tensor(banned), float("-inf"))
        token = int(logits.argmax())
        if token in engine.stop_ids:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_greedy_with_cache_and_batch_equals_the_plain_loop(engine: Engine):
    prompts = ids_of(engine, PROMPTS)
    together = engine.complete(prompts, GREEDY)
    for prompt, reply in zip(prompts, together, strict=True):
        assert reply.ids == plain_greedy(engine, prompt, 12)
        assert reply == engine.complete([prompt], GREEDY)[0]
        assert reply.text == engine.tokenizer.decode(reply.ids).removesuffix("\ufffd")


def test_a_seeded_reply_is_the_same_alone_and_in_a_mixed_batch(engine: Engine):
    prompts = ids_of(engine, PROMPTS)
    settings = [
        Sampling(max_tokens=5 + 7 * n, temperature=1.0, seed=n, top_k=40 * n, repetition_penalty=1.0 + 0.1 * n)
        for n in range(len(prompts))
    ]
    together = engine.complete(prompts, settings)
    alone = [engine.complete([prompt], one)[0] for prompt, one in zip(prompts, settings, strict=True)]
    assert together == alone
    assert len({tuple(reply.ids) for reply in together}) > 1


def test_more_prompts_than_a_batch_holds(engine: Engine):
    prompts = [engine.tokenizer.encode("the llama " * (1 + n % 5) + str(n)) for n in range(70)]
    replies = engine.complete(prompts, Sampling(max_tokens=3, temperature=0.0))
    for n in (0, 33, 69):
        assert replies[n].ids == plain_greedy(engine, prompts[n], 3)


def test_the_stream_joins_to_the_completion(engine: Engine):
    prompts = ids_of(engine, PROMPTS)
    sampling = Sampling(max_tokens=20, temperature=1.2, seed=5)
    steps = list(engine.generate(prompts, sampling))
    for row, reply in enumerate(engine.complete(prompts, sampling)):
        mine = [step for step in steps if step.row == row]
        assert "".join(step.text for step in mine) == reply.text
        assert [step.id for step in mine if step.id is not None] == reply.ids
        assert [step.finish_reason for step in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == reply.finish_reason


def force(engine: Engine, monkeypatch: pytest.MonkeyPatch, wanted: list[int]) -> None:
    """Make the model's next tokens be `wanted`, one after another, whatever it reads."""
    queue = iter(wanted)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        row = torch.zeros(hidden.shape[0], engine.config.vocab_size)
        row[:, next(queue)] = 9.0
        return row

    monkeypatch.setattr(engine.reader, "logits", logits)


def test_end_tokens_end_a_reply_and_are_no_text(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    tokens = engine.tokenizer
    said = tokens.encode("the wind 你好")
    for end in (tokens.eos_id, tokens.im_end_id):
        force(engine, monkeypatch, [*said, end])
        reply = engine.complete([[9]], Sampling(max_tokens=50, temperature=0.0))[0]
        assert (reply.text, reply.ids, reply.finish_reason) == ("the wind 你好", said, "stop")


def test_a_stop_text_across_tokens_ends_a_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    force(engine, monkeypatch, engine.tokenizer.encode("the llama, 世界 and more and more"))
    sampling = Sampling(max_tokens=50, temperature=0.0, stop=["界 an", "never"])
    shown = list(engine.generate([[9]], sampling))
    assert "".join(step.text for step in shown) == "the llama, 世"
    assert shown[-1].finish_reason == "stop"


def test_a_character_cut_by_the_limit_is_no_text(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    split = engine.tokenizer.encode("🦙")
    assert len(split) > 1
    force(engine, monkeypatch, split)
    reply = engine.complete([[9]], Sampling(max_tokens=len(split) - 1, temperature=0.0))[0]
    assert (reply.text, reply.ids, reply.finish_reason) == ("", split[:-1], "length")


def test_markers_and_unused_rows_never_come_out(engine: Engine):
    tokens = engine.tokenizer
    sampling = [Sampling(max_tokens=60, temperature=50.0, top_p=1.0, seed=seed) for seed in range(32)]
    replies = engine.complete([[9]] * 32, sampling)
    drawn = {id_ for reply in replies for id_ in reply.ids}
    assert len(drawn) > 200
    assert not drawn & {tokens.pad_id, tokens.im_start_id, tokens.im_end_id, tokens.eos_id}
    assert max(drawn) < tokens.vocab_size
    assert not any("<|" + name in reply.text for name in ("im_start", "im_end", "pad") for reply in replies)


def test_max_tokens_and_the_end_of_the_context(engine: Engine):
    context = engine.context
    long, short = [9] * (context - 4), [9] * 3
    replies = engine.complete([long, short], Sampling(max_tokens=1000, temperature=0.0))
    for prompt, reply in zip((long, short), replies, strict=True):
        assert reply.ids == plain_greedy(engine, prompt, context - len(prompt))
        assert reply.finish_reason == ("length" if len(prompt) + len(reply.ids) == context else "stop")
    assert len(engine.complete([short], Sampling(max_tokens=1, temperature=0.0))[0].ids) == 1
    with pytest.raises(PunaError, match="context"):
        engine.complete([[9] * context], GREEDY)
    with pytest.raises(ValueError, match="empty"):
        engine.complete([[]], GREEDY)


def test_no_prompts_no_replies(engine: Engine):
    assert engine.complete([], GREEDY) == []
    assert engine.logprobs([]) == []


def plain_logprob(engine: Engine, prompt: list[int], continuation: list[int]) -> float:
    ids = torch.tensor([[*prompt, *continuation]])
    with torch.inference_mode():
        table = engine.model.logits(engine.model(ids))[0].double().log_softmax(-1)
    return sum(float(table[len(prompt) - 1 + n, id_]) for n, id_ in enumerate(continuation))


def test_logprobs_equal_one_by_one(engine: Engine):
    texts = [
        ("the llama", " walks over"),
        ("你好", "，世界。"),
        ("a", "b" * 30),
        ("the wind", ""),
        ("羊驼走过高原", "的"),
    ]
    rows = [(engine.tokenizer.encode(a), engine.tokenizer.encode(b)) for a, b in texts]
    rows = rows * 4 + [([9] * 50, [10] * (engine.context - 49))]
    expected = [plain_logprob(engine, *row) for row in rows[:5]] * 4 + [plain_logprob(engine, *rows[-1])]
    for budget in (8192, 100, 1):
        assert engine.logprobs(rows, batch_tokens=budget) == pytest.approx(expected, abs=1e-4)
    assert expected[3] == 0.0


def test_logprobs_refuses_what_it_cannot_score(engine: Engine):
    with pytest.raises(ValueError, match="row 1 has an empty prompt"):
        engine.logprobs([([1], [2]), ([], [2])])
    with pytest.raises(PunaError, match="context"):
        engine.logprobs([([9] * 50, [9] * engine.context)])


def damaged(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(model_folder: Path, tmp_path: Path, name: str):
    folder = damaged(model_folder, tmp_path)
    (folder / name).unlink()
    with pytest.raises(PunaError, match=name.split(".")[0]):
        Engine.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_refused(model_folder: Path, tmp_path: Path, name: str):
    path = damaged(model_folder, tmp_path) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PunaError):
        Engine.load(path.parent)


def test_a_flipped_bit_in_the_weights_is_refused(model_folder: Path, tmp_path: Path):
    path = damaged(model_folder, tmp_path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(PunaError, match="altered or damaged"):
        Engine.load(path.parent)


def test_a_tokenizer_altered_after_the_release_is_refused(model_folder: Path, tmp_path: Path):
    folder = damaged(model_folder, tmp_path)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    write_json(folder / "MANIFEST.json", {"files": files})
    assert Engine.load(folder).config.num_hidden_layers == 2
    path = folder / "chat_template.jinja"
    path.write_bytes(path.read_bytes().replace(b"assistant", b"assistent"))
    with pytest.raises(PunaError, match=r"chat_template.*digest"):
        Engine.load(folder)
    path.unlink()
    with pytest.raises(PunaError, match=r"chat_template.*is missing, and the manifest lists it"):
        Engine.load(folder)


def test_the_number_of_threads_is_left_as_it_was(engine: Engine):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for _ in engine.generate(ids_of(engine, PROMPTS), GREEDY):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_tokenizer_of_another_model_is_refused(engine: Engine):
    small = engine.config.model_copy(update={"vocab_size": 10})
    with pytest.raises(PunaError, match="not of one model"):
        Engine(engine.model, engine.tokenizer, small)
