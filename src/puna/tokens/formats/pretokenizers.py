"""How a byte-level tokenizer cuts text into words before it merges: the cuts that llama.cpp knows by name.

Comes in: a name (`tokenizer.ggml.pre` of GGUF), or the JSON of a `tokenizers` backend. Goes out: pre-tokenizers, or the name.
Must never happen: a name given to a cut that differs from the one llama.cpp makes under it.

The expressions are those of the models' own tokenizer.json files, checked against llama.cpp's `llama-vocab.cpp`: each one
in turn cuts every piece that the ones before it left into matches and the text between them.
"""

from collections.abc import Mapping
from typing import Any, Final

from tokenizers import Regex, pre_tokenizers

from puna.errors import PunaError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _ENDINGS + (
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # fmt: skip
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# DeepSeek's letters are those of scripts with two cases, listed one by one. (Escaped: what NFC would change.)
_CASED = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7d"
    "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_HAN = "[一-龥ࠀ-一가-\ud7ff]+"
_FALCON = r"[\p{P}\$\+<=>\^~\|`]+"
_DEFAULT = r"[\p{P}\$\+<=>\^~\|]+"
_THREE = "[0-9][0-9][0-9]"

_CUTS: Final[dict[str, tuple[str, ...]]] = {
    "gpt-2": (_GPT2,),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "smollm": (r"\p{N}", _GPT2),
    "tekken": (_TEKKEN,),
    "deepseek-llm": ("[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _HAN, r"\p{N}+"),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}"),
    "deepseek-v3": (
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "falcon": (_FALCON, _GPT2, _THREE),
    "default": (_DEFAULT, _GPT2, r"\p{N}+", _THREE),
}  # fmt: skip

# Other names that llama.cpp has for the same cut.
_SAME: Final[dict[str, str]] = {
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe", "chatglm-bpe"), "llama-bpe"),
    **dict.fromkeys(("stablelm2", "deepseek-r1-qwen", "megrez"), "qwen2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), "smollm"),
    **dict.fromkeys(("phi-2", "mpt", "olmo", "jais", "roberta-bpe", "gigachat"), "gpt-2"),
}

# Under these names llama.cpp takes a word that is an entry whole, whatever the merges would make of it.
IGNORE_MERGES: Final = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"})

NAMES: Final = tuple(sorted({*_CUTS, *_SAME}))


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """The cut called `name`, ending in GPT-2's alphabet of bytes. Raises `PunaError` where the name is not known."""
    cuts = _CUTS.get(_SAME.get(name, name))
    if cuts is None:
        raise PunaError(f"the pre-tokenizer {name[:80]!r} is not known", mend=f"known are {', '.join(NAMES)}")
    steps: list[pre_tokenizers.PreTokenizer] = []
    for cut in cuts:
        if cut == _GPT2:
            # The same expression built into ByteLevel, where it need not be the last one.
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True) if cut is cuts[-1]
                         else pre_tokenizers.Split(Regex(cut), "isolated"))  # fmt: skip
        else:
            steps.append(pre_tokenizers.Split(Regex(cut), "isolated"))
    if cuts[-1] != _GPT2:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def name_of(backend: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the cut of a backend (its tokenizer.json as a dict); None where it is none of those known.

    Of several names for one cut, the one that says the same of `ignore_merges`: so Llama 3's cut without it is "dbrx".
    """
    cuts = _cuts_of(backend.get("pre_tokenizer"))
    if cuts is None:
        return None
    if cuts[:-1] == tuple(map(_canonical, _CUTS["deepseek-llm"][:-1])) and cuts[-1] == r"\p{N}":
        return "deepseek-llm"  # its tokenizer.json cuts digits one by one; no merge joins any, so the ids are the same
    for name, known in _CUTS.items():
        if tuple(map(_canonical, known)) == cuts:
            ignores = bool((backend.get("model") or {}).get("ignore_merges", False))
            if name == "llama-bpe" and not ignores:
                return "dbrx"
            return name
    return None


def _cuts_of(step: Any) -> tuple[str, ...] | None:
    """The expressions that a pre-tokenizer's JSON cuts by, in one spelling; None where a step is of another kind."""
    match step:
        case {"type": "Sequence", "pretokenizers": [*steps]}:
            found = [_cuts_of(item) for item in steps]
            if any(item is None for item in found):
                return None
            return tuple(cut for item in found for cut in item or ())
        case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
            return (_canonical(_GPT2),) if rest.get("use_regex", True) else ()
        case {"type": "Digits", "individual_digits": bool(single)}:
            return (_canonical(r"\p{N}" if single else r"\p{N}+"),)
        case {"type": "Split", "pattern": {"Regex": str(cut)}, "behavior": "Isolated", "invert": False}:
            return (_canonical(cut),)
        case {"type": "Split", "pattern": {"Regex": str(cut)}, "behavior": "Removed", "invert": True}:
            # Keeps matches only: the same where every character is in a match.
            return (_canonical(cut),) if cut.endswith(r"\s+(?!\S)|\s+") else None
    return None


def _canonical(cut: str) -> str:
    """One spelling for expressions that differ in letters but not in what they match."""
    cut = cut.replace(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _ENDINGS)
    return cut.removesuffix(r"|\s+").replace("\\r", "\r").replace("\\n", "\n").replace("\\u3000", "\u3000")
