"""Which tokenizer a path means, and files that lie: refused in one line, soon, whatever their bytes are."""

import json
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_tokens_spm import trained_sentencepiece
from tokenizers import pre_tokenizers

from puna.errors import PunaError
from puna.tokens import Tokenizer
from puna.tokens.formats import open_tokenizer
from puna.tokens.formats.backends import BYTE, NORMAL, UNKNOWN, USER_DEFINED, sentencepiece_backend
from puna.tokens.formats.tiktoken_ranks import merges_by_rank

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama2c_tokenizer(pieces: list[tuple[str, float]]) -> bytes:
    """A tokenizer.bin with these pieces behind the 259 that each has."""
    entries = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), *[(name, 0.0) for name in BYTES], *pieces]
    return struct.pack("<i", 30) + b"".join(
        struct.pack("<fi", score, len(piece.encode())) + piece.encode() for piece, score in entries
    )


GOOD = llama2c_tokenizer([(" ", -3.0), ("a", -4.0), ("b", -5.0), ("的", -6.0), (" a", -1.0), ("ab", -2.0)])


def test_the_tokenizer_beside_a_model(tmp_path: Path) -> None:
    model = tmp_path / "x.bin"
    model.write_bytes(struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512) + bytes(4000))
    with pytest.raises(PunaError, match=r"x\.bin: has no tokenizer beside it; put its tokenizer\.bin"):
        open_tokenizer(model)
    (tmp_path / "tok6.bin").write_bytes(GOOD)
    for path in (model, tmp_path, tmp_path / "tok6.bin"):
        assert open_tokenizer(path).encode("ab 的") == [263, 261, 259, 262]
    (tmp_path / "tok7.bin").write_bytes(GOOD)
    with pytest.raises(PunaError, match=r"2 tokenizers \(tok6\.bin, tok7\.bin\)"):
        open_tokenizer(model)
    (tmp_path / "tokenizer.bin").write_bytes(GOOD)
    assert open_tokenizer(model).vocab_size == open_tokenizer(tmp_path / "tokenizer.bin").vocab_size == 265


def test_a_folder_prefers_tokenizer_json(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"rubbish")
    with pytest.raises(PunaError, match=r"tokenizer\.model: is neither"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    assert open_tokenizer(tmp_path).encode("你好 world") == Tokenizer.load(trained).encode("你好 world")
    (tmp_path / "other.json").write_bytes((trained / "tokenizer.json").read_bytes())
    assert open_tokenizer(tmp_path / "other.json").eos_id == 0


def test_paths_that_hold_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    os.mkfifo(tmp_path / "tokenizer.model")
    for path, said in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "a.txt", "no kind of tokenizer"),
        (tmp_path, "not an ordinary file"),
    ):
        with pytest.raises(PunaError, match=said):
            open_tokenizer(path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(PunaError, match="holds no tokenizer; what is read: tokenizer.json"):
        open_tokenizer(tmp_path)


def test_links_that_leave_the_folder(trained: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(trained / "tokenizer.json")
        with pytest.raises(PunaError, match="a link that leaves its folder"):
            open_tokenizer(folder)


def gpt2_folder(folder: Path, **changes: object) -> Path:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)} | {"ab": 256, "abc": 257, "<|endoftext|>": 258}
    files = {
        "vocab.json": vocab,
        "info.json": {"pre_tokenizer": "gpt-2"},
        "merges.txt": "#version: 0.2\na b\nab c\n",
    } | changes
    for name, value in files.items():
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder


def test_vocab_and_merges(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(gpt2_folder(tmp_path))
    assert tokenizer.encode("abcab") == [257, 256]
    assert (tokenizer.eos_id, tokenizer.special_ids, tokenizer.adds_bos) == (258, {258}, False)
    assert 258 not in tokenizer.encode("<|endoftext|>")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {"300": {"content": "<|im_end|>", "special": True}},
    }
    gpt2_folder(tmp_path, **{"tokenizer_config.json": config})
    (tmp_path / "info.json").unlink()
    qwen = open_tokenizer(tmp_path / "vocab.json")
    assert (qwen.im_end_id, qwen.vocab_size) == (300, 301)
    assert qwen.encode("e\u0301") == qwen.encode("é")  # Qwen composes characters first


@pytest.mark.parametrize(("changes", "said"), [
    ({"info.json": "{}"}, "nothing says how"), ({"info.json": {"pre_tokenizer": "nonesuch"}}, "'nonesuch' is not known"),
    ({"merges.txt": None}, "needs its merges"), ({"merges.txt": "a b c\n"}, "line 1 is not two"), ({"merges.txt": "a q\n"}, "needs 'aq'"),
    ({"vocab.json": "[]"}, "not a JSON object"), ({"vocab.json": '{"a": -1}'}, "out of bounds"), ({"vocab.json": '{"a": 1e9}'}, "out of bounds"),
    ({"vocab.json": '{"a": true}'}, "out of bounds"), ({"vocab.json": '{"a": 1}'}, "byte character"), ({"vocab.json": "[" * 9999}, "not JSON"),
])  # fmt: skip
def test_vocab_and_merges_that_lie(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match=said):
        open_tokenizer(gpt2_folder(tmp_path, **changes))


@pytest.mark.parametrize(("data", "said"), [
    (b"YQ== 0\nYQ== 1\n", "line 2 repeats"), (b"YQ== 0\nYg== 2\n", "leaves a rank out"), (b"YQ== 0\n**** 1\n", "line 2 is not base64"),
    (b"YQ== 0\n", "0x00 has no rank"), (b"YQ== 0\n\xff\xfe\n", "line 2"),
])  # fmt: skip
def test_ranks_that_lie(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(PunaError, match=said):
        open_tokenizer(tmp_path)


def test_other_ranks_than_llama_3(tmp_path: Path) -> None:
    import base64

    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(lines))
    with pytest.raises(PunaError, match="has 256 ranks; of tiktoken's files only LLaMA 3's"):
        open_tokenizer(tmp_path)


def joined_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's rule, as plainly as it can be said: join the pair with the best score, the leftmost first."""
    symbols = list(text)
    while True:
        pairs = [
            (scores[symbols[i] + symbols[i + 1]], -i)
            for i in range(len(symbols) - 1)
            if symbols[i] + symbols[i + 1] in scores
        ]
        if not pairs:
            return symbols
        place = -max(pairs)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]


@pytest.mark.parametrize("seed", range(60))
def test_runs_with_one_score_are_joined_as_sentencepiece_does(seed: int) -> None:
    rng = random.Random(seed)
    runs = {"a" * length: -7.0 for length in range(2, 14) if rng.random() < 0.6}
    others = {
        piece: float(-rank) for rank, piece in enumerate(rng.sample(["ab", "ba", "aba", "bb", "aab", "abab", "bab"], 4))
    }
    pieces = ["<unk>", "a", "b", *runs, *others]
    scores = [0.0, -8.0, -9.0, *runs.values(), *others.values()]
    backend = sentencepiece_backend(
        pieces, scores, [UNKNOWN] + [NORMAL] * (len(pieces) - 1), add_prefix_space=False, byte_fallback=False
    )
    for text in ["a" * length for length in range(40)] + ["".join(rng.choices("ab", [5, 1], k=20)) for _ in range(60)]:
        assert backend.encode(text).tokens == joined_by_score(text, runs | others)


def test_vocabularies_without_an_order_are_refused() -> None:
    def build(*pieces: tuple[str, float, int], fallback: bool = False) -> None:
        rows = [("<unk>", 0.0, UNKNOWN), *pieces]
        sentencepiece_backend(
            *(list(column) for column in zip(*rows, strict=True)), add_prefix_space=True, byte_fallback=fallback
        )  # type: ignore[misc]

    letters = [(letter, -9.0, NORMAL) for letter in "abc"]
    with pytest.raises(PunaError, match="2 pieces that merges can make share the score -1"):
        build(*letters, ("ab", -1.0, NORMAL), ("bc", -1.0, NORMAL))
    with pytest.raises(PunaError, match="'xa' holds 'x', which is no piece"):
        build(*letters, ("xa", -1.0, NORMAL))
    with pytest.raises(PunaError, match="marked unused"):
        build(*letters, ("ab", -1.0, 5))
    with pytest.raises(PunaError, match="entries 1 and 4 are both 'a'"):
        build(*letters, ("a", -1.0, NORMAL))
    with pytest.raises(PunaError, match="no piece <0x00>"):
        build(*letters, fallback=True)
    with pytest.raises(PunaError, match="spaces alone"):
        build(*letters, ("\u2581\u2581", 0.0, USER_DEFINED))
    with pytest.raises(PunaError, match="has 600 characters"):
        build(*letters, ("a" * 600, -1.0, NORMAL))
    build(*letters, *[(name, 0.0, BYTE) for name in BYTES], ("zzz", -1.0, NORMAL), ("yyy", -1.0, NORMAL), fallback=True)


def test_every_cut_of_a_rank_is_a_merge() -> None:
    ranks = {b"a": 0, b"b": 1, b"ab": 2, b"ba": 3, b"aba": 4, b"xyz": 5}
    assert merges_by_rank(ranks) == [(b"a", b"b"), (b"b", b"a"), (b"a", b"ba"), (b"ab", b"a")]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("originals") / "tokenizer.model"
    trained_sentencepiece(path, vocab_size=340)
    return {"tokenizer.model": path.read_bytes(), "tok.bin": GOOD}


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(
    originals: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(originals)))
    whole = bytearray(originals[name])
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    try:
        tokenizer = open_tokenizer(path)
    except PunaError:
        return
    ids = tokenizer.encode("a 的b")
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    tokenizer.decode(ids)
