"""Every kind of tokenizer file against the library it comes from: the same ids, and back to the same text."""

import base64
import io
import json
from pathlib import Path

import pytest
from tests_tokens_spm import ids_of_run_c, trained_sentencepiece
from transformers import AutoTokenizer

from puna.errors import PunaError
from puna.tokens import HARD_STRINGS, Tokenizer, roundtrip_failures
from puna.tokens.formats import open_tokenizer
from puna.tokens.formats.llama2c import write_llama2c_tokenizer
from puna.tokens.formats.pretokenizers import _CUTS, name_of, pre_tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared/data"
SHARED, WEIGHTS = DATA / "tokenizers", DATA / "weights"
shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data are absent ({DATA})")

GIVEN = {
    "llama2_spm32k/tokenizer.model": (32_000, 1, 2, True), "llama2_spm32k/tokenizer.json": (32_003, 1, 2, True),
    "llama2_spm32k/tokenizer.bin": (32_000, 1, 2, True), "llama3_tiktoken": (128_256, 128_000, 128_001, True),
    "gpt-2": (50_257, None, 50_256, False), "deepseek-llm": (102_400, 100_000, 100_001, True),
    "minimind6400": (6400, 1, 0, False), "../weights/stories260K/stories260K.bin": (512, 1, 2, True),
    "../weights/aidreams260K/tok512.bin": (512, 1, 2, True),
}  # fmt: skip


@pytest.fixture(scope="module")
def opened() -> dict[str, Tokenizer]:
    return {path: open_tokenizer(SHARED / path) for path in GIVEN} if DATA.is_dir() else {}


def texts(*names: str, characters: int = 100_000) -> list[str]:
    import zstandard

    found = []
    for name in names:
        with open(DATA / "train" / name, "rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            left = characters
            while left > 0:
                found.append(json.loads(next(lines))["text"][:20_000])
                left -= len(found[-1])
    return found


@shared
@pytest.mark.parametrize("path", GIVEN)
def test_given_tokenizers_give_hard_strings_back(path: str, opened: dict[str, Tokenizer]) -> None:
    tokenizer = opened[path]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == GIVEN[path]
    # SentencePiece writes a space as U+2581, so that character itself comes back as a space, in the library too.
    lost = {text for text in HARD_STRINGS if "\u2581" in text} if tokenizer.prefix_space else set()
    assert {failure["text"] for failure in roundtrip_failures(tokenizer)} == lost


@shared
def test_three_forms_of_llama_2_and_the_library_agree(opened: dict[str, Tokenizer]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    library = sentencepiece.SentencePieceProcessor(model_file=str(SHARED / "llama2_spm32k/tokenizer.model"))
    samples = [*texts("en_classics.jsonl.zst", "zh_laws.jsonl.zst", "zh_modern.jsonl.zst"), *HARD_STRINGS]
    expected = library.encode(samples)
    for form in ("model", "json", "bin"):
        tokenizer = opened[f"llama2_spm32k/tokenizer.{form}"]
        assert tokenizer.encode_batch(samples) == expected
        assert tokenizer.text_bytes(expected[0]) == samples[0].encode()


@shared
def test_llama_3_and_tiktoken_agree(opened: dict[str, Tokenizer]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    lines = (SHARED / "llama3_tiktoken/tokenizer.model").read_bytes().split()
    library = tiktoken.Encoding(
        "llama3", pat_str=_CUTS["llama-bpe"][0], special_tokens={},
        mergeable_ranks={base64.b64decode(entry): int(rank) for entry, rank in zip(lines[::2], lines[1::2], strict=True)},
    )  # fmt: skip
    samples = [*texts("en_classics.jsonl.zst", "zh_laws.jsonl.zst", "zh_modern.jsonl.zst"), *HARD_STRINGS]
    tokenizer = opened["llama3_tiktoken"]
    assert tokenizer.encode_batch(samples) == [library.encode_ordinary(text) for text in samples]
    assert len(tokenizer.backend_json()["model"]["merges"]) == 280_147  # as in Meta's own tokenizer.json
    assert [tokenizer.token_bytes(128_000 + place).decode() for place in (0, 1, 6, 7, 9, 10, 255)] == [
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
        "<|reserved_special_token_5|>", "<|reserved_special_token_250|>",
    ]  # fmt: skip


@shared
@pytest.mark.parametrize(
    "path", [path for path in GIVEN if path not in ("llama3_tiktoken", "llama2_spm32k/tokenizer.bin")]
)
def test_transformers_loads_what_is_saved(path: str, opened: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = opened[path]
    tokenizer.save(tmp_path, context=512)
    oracle, again = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    first = [tokenizer.bos_id] if tokenizer.adds_bos else []
    for text in ("Once upon a time", " two  spaces", "你好，世界\n", "a\t1234 🙂"):
        assert oracle(text)["input_ids"] == first + tokenizer.encode(text)
        assert oracle.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text)) == text
        assert again.encode(text) == tokenizer.encode(text)
    assert oracle.model_max_length == 512
    assert oracle.bos_token_id == tokenizer.bos_id
    assert oracle.eos_token_id in tokenizer.stop_ids
    for name in (
        "bos_id",
        "eos_id",
        "adds_bos",
        "prefix_space",
        "stop_ids",
        "special_ids",
        "chat_template",
        "vocab_size",
    ):
        assert getattr(again, name) == getattr(tokenizer, name)


@pytest.mark.parametrize("options", [
    {}, {"remove_extra_whitespaces": False}, {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    {"byte_fallback": False}, {"control_symbols": ["<pad>"], "split_digits": True},
    {"user_defined_symbols": ["<|im_start|>", "<|im", "ab\u2581c"], "remove_extra_whitespaces": False},
])  # fmt: skip
def test_sentencepiece_models_of_every_setting(options: dict[str, object], tmp_path: Path) -> None:
    library = trained_sentencepiece(tmp_path / "tokenizer.model", **options)
    tokenizer = open_tokenizer(tmp_path / "tokenizer.model")
    samples = [
        *HARD_STRINGS,
        "x<|im_start|>y",
        "x<|im_startle",
        "xab c ab  c",
        "的 <pad> 是",
        "é\u0301 ｶﾞ ① \u1100\u1161",
    ]
    # A user-defined piece at a text's very beginning has no space before it here, as in llama.cpp and transformers.
    samples = [text for text in samples if not ("user_defined_symbols" in options and text.startswith("<|im"))]
    assert tokenizer.encode_batch(samples) == library.encode(samples)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (1, 2, True)


def test_models_that_cannot_be_given_exactly_are_refused(tmp_path: Path) -> None:
    for options, reason in (
        ({"model_type": "unigram"}, "unigram model"),
        ({"normalization_rule_name": "nmt_nfkc"}, "NFKC"),
    ):
        trained_sentencepiece(tmp_path / "tokenizer.model", **options)
        with pytest.raises(PunaError, match=reason):
            open_tokenizer(tmp_path)


def test_settings_beside_a_sentencepiece_model(tmp_path: Path) -> None:
    trained_sentencepiece(tmp_path / "tokenizer.model", remove_extra_whitespaces=False)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({
        "add_bos_token": False, "eos_token": "<|im_end|>", "chat_template": "{{ 1 }}",
        "added_tokens_decoder": {"400": {"content": "<|im_end|>", "special": True}, "401": {"content": "<x>"}},
    }))  # fmt: skip
    tokenizer = open_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.adds_bos, tokenizer.chat_template) == (400, False, "{{ 1 }}")
    assert tokenizer.encode("a<x>")[-1] == 401
    assert 400 not in tokenizer.encode("a<|im_end|>")
    (tmp_path / "added_tokens.json").write_text('{"<y>": 500}')
    with pytest.raises(PunaError, match="add entry 500"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("name", _CUTS)
def test_cuts_are_recognised(name: str) -> None:
    step = json.loads(pre_tokenizer(name).__getstate__())
    assert name_of({"pre_tokenizer": step, "model": {"ignore_merges": name == "llama-bpe"}}) == name
    assert name_of({"pre_tokenizer": step | {"type": "Whitespace"}, "model": {}}) is None


@shared
@pytest.mark.parametrize("path", ["llama2_spm32k/tokenizer.model", "../weights/stories260K/tok512.bin"])
def test_run_c_makes_the_same_ids_of_what_is_written(path: str, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(SHARED / path)
    write_llama2c_tokenizer(tokenizer, tmp_path / "tokenizer.bin")
    again = open_tokenizer(tmp_path / "tokenizer.bin")
    samples = [
        "Once upon a time, a cat sat.",
        "  two   spaces" + " " * 37 + "end",
        "你好，世界！🙂",
        "aaaaaaa---====",
        "Ünïcödé\n\n\t",
    ]
    for text in samples:
        assert (
            ids_of_run_c((tmp_path / "tokenizer.bin").read_bytes(), text)
            == tokenizer.encode(text)
            == again.encode(text)
        )


@shared
def test_tokenizers_that_run_c_has_no_form_for(opened: dict[str, Tokenizer], tmp_path: Path) -> None:
    for path in ("minimind6400", "gpt-2"):
        with pytest.raises(PunaError, match="of another kind"):
            write_llama2c_tokenizer(opened[path], tmp_path / "tokenizer.bin")
    assert list(tmp_path.iterdir()) == []
