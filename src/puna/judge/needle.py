"""The needle test: is a fact that stands somewhere in a long context found again at its end?

Comes in: a model in the engine, texts to hide the fact in. Goes out: by length and depth, the share recalled and the share
told apart from false facts, with exact intervals against chance. Must never happen: a fact that the haystack already
tells, a score of a model that ignores its context other than chance, a share without its count.

After Kamradt (2023, github.com/gkamradt/LLMTest_NeedleInAHaystack), for models that do not chat: the fact is a sentence
("The secret word of Lima is walnut."), and the context ends by repeating its beginning ("The secret word of Lima is").
Two scores: `recall`, the right word is what greedy decoding writes; and `chosen`, the right word is likelier than each of
k - 1 others with as many tokens. The word is drawn evenly from the k and none of them stands in the haystack, so a model that
does not see the fact chooses rightly once in k times, whatever words it likes: a small model can be measured by it. `lift`
is log2 P(right) less the mean of log2 P(others), in bits: nought on average for the same model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from puna.engine import Engine
from puna.errors import PunaError
from puna.judge.bits_per_byte import start_id
from puna.judge.results import PLACES
from puna.judge.stats import Interval, binomial_p_value
from puna.model.cache import KVCache
from puna.progress import QUIET, Progress

CHOICES = 8  # k: the right word and seven others
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST_FILLER = 16  # tokens of haystack; with less there is nothing to search
# A sentence with the space before it, as byte-level tokenizers join a space to the word that follows; 400 characters at most.
_SENTENCE = re.compile(r"[^.!?。！？\n]{0,400}[.!?。！？\n]+[\"'”’」）)]*|[^.!?。！？\n]{1,400}")
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Needle:
    """A language's fact: `head` with a place for the key is repeated at the end, `gap` stands before the value."""

    head: str
    gap: str
    end: str
    names: str  # the keys, apart by spaces
    words: str  # the values

    @property
    def keys(self) -> list[str]:
        """What a fact may be about."""
        return self.names.split()

    @property
    def values(self) -> list[str]:
        """What may be the answer."""
        return self.words.split()

    def fact(self, key: str, value: str) -> str:
        """The whole sentence, as it is hidden."""
        return f"{self.head.format(key=key)}{self.gap}{value}{self.end}"


NEEDLES = {
    "en": Needle(
        " The secret word of {key} is", " ", ".",
        "Lima Oslo Cairo Quito Delhi Tunis Seoul Dublin Havana Vienna Lisbon Prague",
        "apple table river garden window bottle candle horse silver bridge castle mirror ladder pepper button feather "
        "basket hammer pillow carpet walnut violin monkey parrot salmon tulip copper marble lantern anchor compass barrel "
        "needle saddle turtle cherry velvet harbor kettle pigeon",
    ),
    "zh": Needle(
        "{key}的暗号是", "", "。",
        "利马 开罗 东京 罗马 柏林 巴黎 伦敦 北京 上海 广州 成都 西安",
        "苹果 桌子 河水 花园 窗户 瓶子 蜡烛 白马 银子 石桥 城门 镜子 梯子 胡椒 扣子 羽毛 篮子 锤子 枕头 地毯 核桃 琵琶 猴子 鹦鹉 鲤鱼 牡丹 "
        "铜钱 玉石 灯笼 船锚 罗盘 木桶 银针 马鞍 乌龟 樱桃 丝绸 港口 茶壶 鸽子",
    ),
}  # fmt: skip


def needle_test(
    engine: Engine, haystack: Sequence[str], *, lengths: Sequence[int], depths: Sequence[float] = DEPTHS, trials: int,
    seed: int, choices: int = CHOICES, progress: Progress = QUIET, title: str = "looking for needles",
) -> dict[str, Any]:  # fmt: skip
    """`trials` facts for each length (tokens, the right word included) and depth (0: before the haystack, 1: after it).

    Needles follow the language of the text they are hidden in, English or Chinese. A trial's draw depends on seed, length,
    depth and number alone: models with one tokenizer meet the same trials. Lengths beyond the model's context, and those the
    fact does not fit into, are left out with the reason. Raises `PunaError` for a haystack without text or a number that is not finite.
    """
    if trials < 1 or choices < 2 or any(not 0 <= depth <= 1 for depth in depths):
        raise ValueError(
            f"needs trials, two choices or more and depths of 0 to 1; got {trials}, {choices}, {list(depths)}"
        )
    texts = [text for text in haystack if text.strip()]
    if not texts:
        raise PunaError("there is no text to hide a needle in", where="needle test")
    maker = _Maker(engine, texts, choices)
    cells, left_out, every = [], [], list[_Found]()
    progress.start(title, len(lengths) * len(depths) * trials, "needles")
    for place, length in enumerate(lengths):
        if length > engine.context:
            left_out.append({"length": length, "reason": f"the model's context is {engine.context:,} tokens"})
            continue
        done: list[_Found] = []
        for row, depth in enumerate(depths):
            found = []
            for trial in range(trials):
                made = maker.trial(length, depth, np.random.default_rng([seed, length, row, trial]))
                if made is not None:
                    found.append(_ask(engine, *made))
                progress.update((place * len(depths) + row) * trials + trial + 1)
            if found:
                cells.append({"length": length, "depth": depth, **_counted(found, choices)})
            done += found
        every += done
        if len(done) < len(depths) * trials:
            missing = len(depths) * trials - len(done)
            left_out.append({"length": length, "reason": f"in {missing} of {len(depths) * trials} trials the needle and words of equal length do not fit"})  # fmt: skip
    progress.finish()
    return {"choices": choices, "trials": trials, "lengths": list(lengths), "depths": list(depths), "cells": cells,
            "by_length": _pooled(cells, "length", choices), "by_depth": _pooled(cells, "depth", choices),
            "by_language": {lang: _counted([one for one in every if one.lang == lang], choices)
                            for lang in sorted({one.lang for one in every})},
            "left_out": left_out}  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """One trial's outcome."""

    recalled: bool
    chosen: bool
    lift: float
    lang: str


class _Maker:
    """Hides needles: the haystack in sentences, the words of each language by their count of tokens."""

    def __init__(self, engine: Engine, texts: Sequence[str], choices: int) -> None:
        self._engine, self._choices, self._start = engine, choices, start_id(engine)
        self._texts = texts
        self._cut: dict[int, list[str]] = {}
        self._asked: dict[tuple[str, str], tuple[list[int], dict[str, list[int]]]] = {}

    def trial(
        self, length: int, depth: float, rng: np.random.Generator
    ) -> tuple[list[int], list[list[int]], int, str] | None:
        """(prompt, the choices' tokens, which is right, language), `length` tokens in all; None where it does not fit."""
        encode = self._engine.tokenizer.encode
        number = int(rng.integers(len(self._texts)))
        lang = _language(self._texts[number])
        needle = NEEDLES[lang]
        key = needle.keys[int(rng.integers(len(needle.keys)))]
        question, words = self._words(lang, key)
        order = rng.permutation(len(needle.values)).tolist()
        pieces = self._filler(number, length, rng)
        text = "".join(piece for piece, _ in pieces)
        # A word that the haystack holds would be likely for a reason of its own.
        free = [needle.values[place] for place in order if needle.values[place].lower() not in text.lower()]
        groups: dict[int, list[str]] = {}
        for value in free:
            groups.setdefault(len(words[value]), []).append(value)
        group = max(groups.values(), key=len, default=[])[: self._choices]
        if len(group) < self._choices:
            return None
        right = int(rng.integers(len(group)))
        hidden = encode(needle.fact(key, group[right]))
        spare = length - 1 - len(hidden) - len(question) - len(words[group[right]])
        if spare < _LEAST_FILLER:
            return None
        before, after = self._around(pieces, depth, spare)
        return [self._start, *before, *hidden, *after, *question], [words[value] for value in group], right, lang

    def _words(self, lang: str, key: str) -> tuple[list[int], dict[str, list[int]]]:
        """The question's tokens and each value's, as the tokenizer cuts the two together."""
        if (lang, key) not in self._asked:
            self._asked[lang, key] = self._tokens(NEEDLES[lang], key)
        return self._asked[lang, key]

    def _tokens(self, needle: Needle, key: str) -> tuple[list[int], dict[str, list[int]]]:
        encode, head = self._engine.tokenizer.encode, needle.head.format(key=key)
        whole = {value: encode(f"{head}{needle.gap}{value}") for value in needle.values}
        shared = len(encode(head))
        for ids in whole.values():
            while ids[:shared] != next(iter(whole.values()))[:shared]:
                shared -= 1
        return next(iter(whole.values()))[:shared], {value: ids[shared:] for value, ids in whole.items()}

    def _filler(self, number: int, room: int, rng: np.random.Generator) -> list[tuple[str, list[int]]]:
        """Sentences with their tokens, from one on, through the texts of the same language: `room` tokens or more."""
        lang = _language(self._texts[number])
        pieces: list[tuple[str, list[int]]] = []
        total, text = 0, number
        begin = int(rng.integers(len(self._sentences(number))))
        while total < room:
            for sentence in self._sentences(text)[begin:]:
                ids = self._engine.tokenizer.encode(sentence)
                pieces.append((sentence, ids))
                total += len(ids)
                if total >= room:
                    break
            if not total:
                raise PunaError("the tokenizer makes no tokens of the text", where="needle test")
            begin, text = 0, (text + 1) % len(self._texts)
            while _language(self._texts[text]) != lang:
                text = (text + 1) % len(self._texts)
        return pieces

    def _sentences(self, number: int) -> list[str]:
        if number not in self._cut:
            self._cut[number] = _SENTENCE.findall(self._texts[number])
        return self._cut[number]

    def _around(self, pieces: list[tuple[str, list[int]]], depth: float, spare: int) -> tuple[list[int], list[int]]:
        """The filler's tokens before and after the needle, which stands between two sentences, as near to `depth` as can be.

        The first sentence loses its beginning, as in any window cut out of a text, so that `spare` tokens are left.
        """
        lengths = [len(ids) for _, ids in pieces]
        flat = [id_ for _, ids in pieces for id_ in ids]
        over = len(flat) - spare
        ends = [max(0, end - over) for end in np.cumsum([0, *lengths]).tolist()]
        cut = min(ends, key=lambda end: (abs(end - depth * spare), end))
        kept = flat[over:]
        token_bytes = self._engine.tokenizer.token_bytes
        while cut and kept and token_bytes(kept[0])[:1] and token_bytes(kept[0])[0] & 0xC0 == 0x80:
            kept, cut = kept[1:], cut - 1  # the rest of a character whose first byte was cut off
        return kept[:cut], kept[cut:]


def _language(text: str) -> str:
    """ "zh" where a third of the first letters are Han characters."""
    head = text[:2000]
    return "zh" if 3 * len(_HAN.findall(head)) > sum(char.isalpha() for char in head) else "en"


def _ask(engine: Engine, prompt: list[int], choices: list[list[int]], right: int, lang: str) -> _Found:
    """Read the prompt once, then all choices after it; greedy decoding recalls the word where each of its tokens is the likeliest.

    The same numbers as `engine.logprobs` and `engine.complete` give, for one reading in place of k + 1.
    """
    model, device = engine.model, engine.model.head_weight().device
    words = torch.tensor(choices, device=device)
    with torch.inference_mode():
        cache = KVCache(model.config, 1, len(prompt) + words.shape[1], device=device)
        hidden = model(torch.tensor([prompt], device=device), cache=cache)[:, -1:]
        cache.advance(len(prompt))
        states = hidden.expand(len(choices), -1, -1)
        if words.shape[1] > 1:
            cache.select(torch.zeros(len(choices), dtype=torch.long, device=device))
            states = torch.cat([states, model(words[:, :-1], cache=cache)], dim=1)
        logits = model.logits(states).float()
        likely = (logits.gather(-1, words[..., None])[..., 0] - logits.logsumexp(dim=-1)).double().sum(1).cpu().numpy()
        unwritten = (
            engine.tokenizer.special_ids - engine.stop_ids
        )  # decoding never draws these, nor rows without a token
        logits[..., engine.tokenizer.vocab_size :] = logits[..., sorted(unwritten)] = float("-inf")
        recalled = bool((logits[right].argmax(-1) == words[right]).all())
    if not np.isfinite(likely).all():
        raise PunaError("the model gives log-probabilities that are not finite", where="needle test")
    others = np.delete(likely, right)
    # A tie is no choice: a model that gives every word the same has chosen none.
    return _Found(
        recalled, bool(likely[right] > others.max()), float(likely[right] - others.mean()) / float(np.log(2)), lang
    )


def _counted(found: Sequence[_Found], choices: int) -> dict[str, Any]:
    recalled, chosen, n = sum(one.recalled for one in found), sum(one.chosen for one in found), len(found)
    return _shares(recalled, chosen, n, float(np.mean([one.lift for one in found])), choices)


def _shares(recalled: int, chosen: int, n: int, lift: float, choices: int) -> dict[str, Any]:
    def around(hits: int) -> list[float]:
        return [round(value, PLACES) for value in clopper_pearson(hits, n)]

    return {"n": n, "recalled": recalled, "recall": round(recalled / n, PLACES), "recall_interval": around(recalled),
            "chosen": chosen, "share": round(chosen / n, PLACES), "interval": around(chosen), "chance": round(1 / choices, PLACES),
            "lift_bits": round(lift, PLACES)}  # fmt: skip


def _pooled(cells: Sequence[dict[str, Any]], by: str, choices: int) -> list[dict[str, Any]]:
    """All cells of one length, or depth, together, with the p-value of "no better than chance" (exact binomial)."""
    pooled = []
    for value in sorted({cell[by] for cell in cells}):
        part = [cell for cell in cells if cell[by] == value]
        n, recalled, chosen = (sum(cell[key] for cell in part) for key in ("n", "recalled", "chosen"))
        lift = sum(cell["lift_bits"] * cell["n"] for cell in part) / n
        p_value = binomial_p_value(chosen, n, Fraction(1, choices))
        pooled.append({by: value, **_shares(recalled, chosen, n, lift, choices), "p_value": p_value})
    return pooled


def clopper_pearson(successes: int, n: int) -> Interval:
    """95 % interval of a share that covers the truth at least so often (Clopper & Pearson 1934). ValueError without a trial."""
    from scipy.stats import binomtest  # takes half a second to import

    found = binomtest(successes, n).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)
