"""A model may be a file: llama2.c's and llama.cpp's are loaded, begun and continued as a folder is."""

from pathlib import Path

import pytest

from puna.cli.chat import run_chat
from puna.engine import Engine, Sampling, resolve_model
from puna.errors import PunaError

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
STORIES = SHARED / "weights/stories260K/stories260K.bin"
KNOWN = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red"
    " ball. She wanted to play with it, but it was too high."
)
GREEDY = Sampling(max_tokens=48, temperature=0)


@pytest.fixture(scope="module")
def stories() -> Engine:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    return Engine.load(STORIES, "cpu")


def test_the_known_text_from_the_beginning_and_from_a_prompt(stories: Engine) -> None:
    begin, tokens = stories.begin(""), stories.tokenizer
    assert begin == [tokens.bos_id] == [1] and stories.begin("Once") == [1, *tokens.encode("Once")]
    text = stories.complete([begin], GREEDY)[0].text
    assert KNOWN.startswith(text) and len(text) > 100  # the first piece's space is SentencePiece's, not the text's
    reply = stories.complete([stories.begin("Once upon a time")], GREEDY)[0]
    assert KNOWN.startswith("Once upon a time" + reply.text)
    streamed = "".join(step.text for step in stories.generate([begin], GREEDY))
    assert streamed == text


def test_rows_with_and_without_text_share_a_batch(stories: Engine) -> None:
    prompts = [stories.begin(""), stories.begin("Lily"), stories.begin("你好")]
    together = stories.complete(prompts, GREEDY)
    alone = [stories.complete([ids], GREEDY)[0] for ids in prompts]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert not together[0].text.startswith(" ")


def test_chat_continues_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    run_chat(str(STORIES), prompt="Once upon a time", temperature=0, max_tokens=48)
    assert KNOWN.startswith("Once upon a time" + capsys.readouterr().out.rstrip("\n"))


def test_a_gguf_file_says_the_same(stories: Engine, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from puna.model.formats.gguf_write import write_gguf
    from puna.model.weights import Weights
    from puna.tokens.formats.gguf import gguf_tokenizer_fields

    path = tmp_path / "故事.gguf"
    write_gguf(Weights.of(stories.model), path, kind="F32", tokenizer=gguf_tokenizer_fields(stories.tokenizer))
    for name in (str(path), str(tmp_path)):  # the file, and the folder that holds it and nothing else
        again = Engine.load(resolve_model(name, tmp_path / "runs"), "cpu")
        assert again.begin("Once upon a time 你好") == stories.begin("Once upon a time 你好")
        assert again.complete([again.begin("")], GREEDY) == stories.complete([stories.begin("")], GREEDY)


def test_a_byte_level_tokenizer_begins_with_nothing(engine: Engine) -> None:
    assert not engine.tokenizer.adds_bos
    assert engine.begin("the 羊驼") == engine.tokenizer.encode("the 羊驼") and engine.begin("") == []


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("notes.txt", b"Dear diary", "is no model"),
        ("x.bin", b"PK\x03\x04rest", "pickle"),
        ("x.bin", b"\x80\x02}q\x00", "pickle"),
        ("x.gguf", b"GGUF" + bytes(20), "version"),
        ("x.gguf", b"", "x.gguf"),
        ("x.bin", b"\x01", "x.bin"),
        ("x.safetensors", bytes(64), "folder"),
    ],
)
def test_what_is_no_model_is_one_clear_line(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PunaError, match=word) as refused:
        Engine.load(resolve_model(str(tmp_path / name), tmp_path / "runs"), "cpu")
    assert name in refused.value.line() and "\n" not in refused.value.line()


def test_a_model_file_without_a_tokenizer(tmp_path: Path) -> None:
    if not STORIES.is_file():
        pytest.skip(f"{STORIES} is not here")
    (tmp_path / "model.bin").write_bytes(STORIES.read_bytes())
    with pytest.raises(PunaError, match="tokenizer"):
        Engine.load(tmp_path / "model.bin", "cpu")
    named = Engine.load(tmp_path / "model.bin", "cpu", tokenizer=STORIES.with_name("tok512.bin"))
    assert named.begin("Once")[0] == 1
