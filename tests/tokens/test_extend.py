"""Vocabulary extension: old ids stay, new entries are what continued BPE gives, and other programs read them alike."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_tokens_texts import small_texts

from puna.errors import PunaError
from puna.tokens import HARD_STRINGS, Tokenizer, extend
from puna.tokens.continued import Entry, PieceRules, learn, whole_or_within
from puna.tokens.extend import extend_tokenizer
from puna.tokens.scripts import main_script

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ENTRIES = 300


def chinese(name: str, step: int = 20) -> list[str]:
    """Every `step`-th document of a shared file."""
    path = DATA / "train" / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with open(path, "rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        lines = stream.read().decode().splitlines()
    return [json.loads(line)["text"] for line in lines[::step]]


@pytest.fixture(scope="module", params=["ours", "llama2", "stories", "minimind"])
def bases(request: pytest.FixtureRequest, trained: Path) -> Tokenizer:
    """Byte-level and SentencePiece-like, with and without a begin token."""
    if request.param == "ours":
        return Tokenizer.load(trained)
    from puna.tokens.formats import open_tokenizer

    path = {"llama2": DATA / "tokenizers/llama2_spm32k/tokenizer.json", "minimind": DATA / "tokenizers/minimind6400",
            "stories": DATA / "weights/stories260K/tok512.bin"}[request.param]  # fmt: skip
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return open_tokenizer(path)


@pytest.fixture(scope="module")
def extension(
    bases: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Tokenizer, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("extended")
    report = extend_tokenizer(bases, iter(chinese("zh_laws")), ENTRIES, out, specials=("<|im_start|>", "<|tool|>"))
    return bases, Tokenizer.load(out), report, out


def test_new_entries_follow_the_old_ones_and_shorten_chinese(
    extension: tuple[Tokenizer, Tokenizer, dict[str, Any], Path],
) -> None:
    base, new, report, out = extension
    old_vocab, vocab = base.backend_json()["model"]["vocab"], new.backend_json()["model"]["vocab"]
    assert {name: vocab[name] for name in old_vocab} == old_vocab
    assert report == json.loads((out / "extension.json").read_text())
    assert report["base_vocab"] == base.vocab_size and report["vocab"] == new.vocab_size
    assert report["entries"] == ENTRIES
    assert len(report["pieces"]) == new.vocab_size - base.vocab_size == ENTRIES + report["specials"]
    assert new.special_ids - base.special_ids == set(range(base.vocab_size, base.vocab_size + report["specials"]))
    assert (new.eos_id, new.bos_id, new.adds_bos) == (base.eos_id, base.bos_id, base.adds_bos)
    assert "<|im_start|>" in vocab and new.im_start_id not in new.encode("<|im_start|> 中")
    han = report["languages"]["Han"]
    assert han["bytes_per_token_after"] == han["bytes"] / han["tokens_after"] > han["bytes_per_token_before"]
    for number, ids in enumerate(report["pieces"], base.vocab_size):
        assert b"".join(map(base.token_bytes, ids)) == (b"" if number in new.special_ids else new.token_bytes(number))


def test_text_free_of_new_entries_keeps_its_ids_and_new_ones_stand_for_the_old_ids(
    extension: tuple[Tokenizer, Tokenizer, dict[str, Any], Path],
) -> None:
    base, new, report, _ = extension
    shared = [text[:3000] for text in (*chinese("zh_classical", 40), *chinese("en_open", 40))]
    texts = [*HARD_STRINGS, *small_texts(), *shared]
    spelled = dict(enumerate(report["pieces"], base.vocab_size))
    byte_level = base.backend_json()["decoder"]["type"] == "ByteLevel"
    untouched = 0
    for before, after in zip(base.encode_batch(texts), new.encode_batch(texts), strict=True):
        if max(after, default=0) < base.vocab_size:
            untouched += 1
            assert after == before
        if byte_level:  # there an entry is made by one pair only
            assert [old for token in after for old in spelled.get(token, [token])] == before
        assert new.text_bytes(after) == base.text_bytes(before)
    assert untouched > 20


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(
        st.one_of(st.sampled_from("第条人民法院规定应当 the, 。\n1①é▁<|"), st.characters(exclude_categories=["Cs"])),
        max_size=40,
    )
)
def test_any_text_free_of_new_entries_keeps_its_ids(
    extension: tuple[Tokenizer, Tokenizer, dict[str, Any], Path], text: str
) -> None:
    base, new, _, _ = extension
    after, before = new.encode(text), base.encode(text)
    assert new.text_bytes(after) == base.text_bytes(before)
    if all(token < base.vocab_size for token in after):
        assert after == before
    assert [token for token in after if token in new.special_ids] == [
        token for token in before if token in base.special_ids
    ]


def test_transformers_gives_the_same_ids(extension: tuple[Tokenizer, Tokenizer, dict[str, Any], Path]) -> None:
    transformers = pytest.importorskip("transformers")
    _, new, _, out = extension
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    for text in [*chinese("zh_laws", 100), "Once upon a time, 人民法院应当依法审理。", "第十二条\n\n  def f(x):"]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == new.encode(text)


def test_sentencepiece_gives_the_same_ids_from_pieces_and_scores_alone(tmp_path: Path) -> None:
    """What a GGUF or llama2.c file holds, read by the library whose algorithm these two follow."""
    sentencepiece = pytest.importorskip("sentencepiece")
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    folder = DATA / "tokenizers/llama2_spm32k"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    base = Tokenizer.load(folder)
    extend_tokenizer(base, [*chinese("zh_laws", 15), *chinese("zh_modern", 30)], 800, tmp_path)
    new = Tokenizer.load(tmp_path)
    model = proto.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    lowest = min(piece.score for piece in model.pieces)
    names = {token: name for name, token in new.backend_json()["model"]["vocab"].items()}
    for token in range(len(model.pieces), base.vocab_size):  # this tokenizer.json has three more than the .model
        model.pieces.add(piece=f"<unused {token}>", score=0.0, type=proto.ModelProto.SentencePiece.CONTROL)
    for token in range(base.vocab_size, new.vocab_size):
        model.pieces.add(piece=names[token], score=lowest - 1 - token, type=proto.ModelProto.SentencePiece.NORMAL)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    shared = [
        text[:4000] for text in (*chinese("zh_modern", 90), *chinese("zh_classical", 60), *chinese("en_open", 100))
    ]
    for text in [*shared, "哈哈哈哈哈哈的的的"]:
        assert theirs.encode(text) == new.encode(text)


def plain_learning(words: dict[tuple[int, ...], int], texts: list[str], entries: int) -> list[tuple[int, int, int]]:
    """Continued BPE by counting everything anew each time (Sennrich et al. 2016, algorithm 1)."""
    texts, made = list(texts), []
    while len(made) < entries:
        counts: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += count
        fit = [
            (-count, *pair)
            for pair, count in counts.items()
            if count >= 2 and texts[pair[0]] + texts[pair[1]] not in texts
        ]
        if not fit:
            break
        negative, left, right = min(fit)
        made.append((left, right, -negative))
        texts.append(texts[left] + texts[right])
        joined: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            out: list[int] = []
            at = 0
            while at < len(word):
                pair_here = word[at : at + 2] == (left, right)
                out.append(len(texts) - 1 if pair_here else word[at])
                at += 2 if pair_here else 1
            joined[tuple(out)] += count
        words = dict(joined)
    return made


class AnyText:
    """Rules that allow every text that is new."""

    def __init__(self, known: list[str]) -> None:
        self.known = set(known)

    def pairs(self, left: int, right: int, text: str) -> tuple[tuple[int, int], ...]:
        return () if text in self.known else ((left, right),)

    def add(self, text: str, token: int) -> None:
        self.known.add(text)


@given(
    st.dictionaries(
        st.lists(st.integers(0, 3), min_size=1, max_size=14).map(tuple), st.integers(1, 5), min_size=1, max_size=12
    )
)
@settings(max_examples=200, deadline=None)
def test_learning_equals_counting_anew(words: dict[tuple[int, ...], int]) -> None:
    texts = ["a", "b", "ab", "c"]
    packed = {np.array(word, np.int32).tobytes(): count for word, count in words.items()}
    made = learn(packed, texts, 12, AnyText(texts), least=2)
    assert [(*entry.pairs[0], entry.count) for entry in made] == plain_learning(words, texts, 12)


def test_a_character_comes_before_what_is_made_of_it_and_only_where_it_saves_more() -> None:
    words = {np.array([0, 1, 2], np.int32).tobytes(): 10, np.array([2, 2], np.int32).tobytes(): 4}
    made = learn(words, ["a", "b", "中"], 4, PieceRules({"a": 0, "b": 1}, 32), least=2, characters={2: (18, 3)})
    assert made == [
        Entry(2, "中", (), 18),
        Entry(3, "ab", ((0, 1),), 10),
        Entry(4, "ab中", ((3, 2),), 10),
        Entry(5, "中中", ((2, 2),), 4),
    ]


def test_a_piece_never_gives_an_older_piece_a_new_pair() -> None:
    rules = PieceRules({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, 32)
    assert rules.pairs(1, 2, "bc") == ()  # "a" + "bc" would then be joined to "abc" at the rank of "abc"
    assert rules.pairs(2, 0, "ca") == ((2, 0),)
    assert PieceRules({"a": 0, "aa": 1}, 32).pairs(0, 1, "aaa") == ()  # overlaps itself, spelled in two ways


def test_the_same_texts_give_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    texts = chinese("zh_laws", 60)
    for name in ("a", "b"):
        extend_tokenizer(Tokenizer.load(trained), texts, 100, tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json", "extension.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_small_text_gives_fewer_entries_never_invented_ones(trained: Path, tmp_path: Path) -> None:
    report = extend_tokenizer(Tokenizer.load(trained), ["蓝鲸" * 15], 50, tmp_path)
    assert 0 < report["entries"] < 50
    with pytest.raises(PunaError, match="no text"):
        extend_tokenizer(Tokenizer.load(trained), [], 50, tmp_path)
    with pytest.raises(PunaError, match="surrogate"):
        extend_tokenizer(Tokenizer.load(trained), ["\ud800"], 50, tmp_path)


def test_other_models_than_bpe_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    with pytest.raises(PunaError, match="only a BPE"):
        extend_tokenizer(Tokenizer(Backend(models.Unigram([("a", 0.0)]))), ["a"], 5, tmp_path)


def test_added_tokens_outside_the_vocabulary_keep_their_ids(trained: Path, tmp_path: Path) -> None:
    """As in Llama 3, whose 256 special tokens stand behind the vocabulary of the model proper."""
    from tokenizers import AddedToken

    value = Tokenizer.load(trained)
    value._backend.add_special_tokens([AddedToken("<|one|>", special=True, normalized=False)])
    base = Tokenizer(value._backend)
    extend_tokenizer(base, chinese("zh_laws", 60), 20, tmp_path)
    new = Tokenizer.load(tmp_path)
    assert new._backend.token_to_id("<|one|>") == base.vocab_size - 1
    assert new.vocab_size == base.vocab_size + 20


def test_whole_characters_or_parts_of_one() -> None:
    assert all(map(whole_or_within, ["中文".encode(), b"\xe4\xb8", b"\xb8\xad", b"\xb8", b"a", b"\xf0\x9f\x98"]))
    assert not any(map(whole_or_within, [b"a\xe4", "中".encode() + b"\xe4", b"\xb8\xad\xe4", b"\xe4\xe4"]))


@pytest.mark.parametrize(("text", "script"), [
    ("Hello, wörld", "Latin"), ("人民法院", "Han"), ("использование 1", "Cyrillic"), ("ひらがな漢字", "Kana"), ("한국어", "Hangul"),
    ("12 ½ …", "other"), ("", "other"), ("𠀀𠀁 a", "Han"), ("العربية", "Arabic"),
])  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert main_script(text) == script


def test_what_is_measured_on_is_not_learned_from() -> None:
    texts = [f"document {number}" for number in range(100)]
    learned, aside = extend._set_aside(texts)
    assert len(aside) == 5 and sorted([*learned, *aside]) == sorted(texts)
    learned, aside = extend._set_aside(["one book\n" * 40_000])
    assert aside and "".join(aside) in "one book\n" * 40_000 and len(learned) > 15 * len(aside)
