"""The default conversations: questions and answers made from docstrings, and who the model is.

Comes in: functions.jsonl and the model's identity. Goes out: conversations.jsonl of short answers, for a model of a few million
parameters and rows of about 250 tokens. Must never happen: a question about a held-out function, or a choice between answers;
both would leak the quiz.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from puna.corpus import phrases as p
from puna.corpus.conversations import read_conversations
from puna.errors import PunaError
from puna.files import atomic_file, canonical_json

__all__ = ["make_conversations", "read_conversations"]

_SIGNATURE_CHARS = 100
_ARGUMENTS = 6  # of a function; more would not fit a short answer
_ANSWER_CHARS = 420
_ZH_SHARE = 0.2  # of the first questions about a function
_MORE_SHARE = 0.8  # of the functions that get a second conversation
_GREETING_REPEATS = 10  # a small model meets few strings often, or forgets them
_IDENTITY_REPEATS = 10
_CLOSINGS = 250  # conversations that open with a greeting, or end with thanks, each

Turn = tuple[str, str]  # question, answer


@dataclass(frozen=True, slots=True)
class _Function:
    record: dict[str, Any]

    @property
    def shown(self) -> str:
        module, qualname = self.record["module"], self.record["qualname"]
        return str(qualname if module == "builtins" else f"{module}.{qualname}")

    @property
    def call(self) -> str:
        signature = self.record["signature"] or "(...)"
        if len(signature) > _SIGNATURE_CHARS:
            signature = signature[:_SIGNATURE_CHARS].rsplit(",", 1)[0] + ", ...)"
        return f"{self.shown}{signature}"

    def summary(self, zh: bool) -> str:
        said = self.record["summary"]
        return f"{self.shown} 的作用：{said}\n用法：{self.call}" if zh else f"{said}\nUsage: {self.call}"

    def how(self, zh: bool) -> str:
        return f"这样调用：{self.call}" if zh else f"Call it like this: {self.call}"

    def arguments(self, zh: bool) -> str:
        items = self.record["args"][:_ARGUMENTS]
        if not items:
            return f"{self.shown} 没有参数。" if zh else f"{self.shown} takes no arguments."
        names = ("、" if zh else ", ").join(item["name"] for item in self.record["args"][: 2 * _ARGUMENTS])
        lines = [f"{self.shown} 的参数：{names}" if zh else f"{self.shown} takes: {names}"]
        lines += [f"- {item['name']}: {item['doc']}" for item in items if item["doc"]]
        return "\n".join(lines)

    def module(self, zh: bool) -> str:
        module, name = self.record["module"], self.record["qualname"]
        if module == "builtins":
            return f"{name} 是内置的，不需要导入。" if zh else f"{name} is built in; nothing has to be imported."
        return (
            f"{name} 在模块 {module} 里：import {module}"
            if zh
            else f"{name} is in the module {module}: import {module}"
        )

    def result(self, zh: bool) -> str:
        said = self.record["returns"]
        return f"{self.shown} 返回：{said}" if zh else f"{self.shown} returns {said}."


_TABLES: dict[str, tuple[list[str], list[str]]] = {
    "summary": (p.SUMMARY_EN, p.SUMMARY_ZH),
    "call": (p.CALL_EN, p.CALL_ZH),
    "arguments": (p.ARGS_EN, p.ARGS_ZH),
    "module": (p.MODULE_EN, p.MODULE_ZH),
    "returns": (p.RETURNS_EN, p.RETURNS_ZH),
}
_THEN: dict[str, tuple[list[str], list[str]]] = {
    "call": (p.THEN_CALL_EN, p.THEN_CALL_ZH),
    "arguments": (p.THEN_ARGS_EN, p.THEN_ARGS_ZH),
    "returns": (p.THEN_RETURNS_EN, p.THEN_RETURNS_ZH),
}
_ANSWERS: dict[str, Callable[[_Function, bool], str]] = {
    "summary": _Function.summary,
    "call": _Function.how,
    "arguments": _Function.arguments,
    "module": _Function.module,
    "returns": _Function.result,
}


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = np.random.Generator(np.random.PCG64(seed))

    def pick(self, items: list[str]) -> str:
        return items[int(self.random.integers(len(items)))]

    def ask(self, function: _Function, kind: str, zh: bool, phrase: str | None = None) -> Turn:
        phrase = phrase or self.pick(_TABLES[kind][zh])
        return phrase.format(x=function.shown, n=function.record["qualname"]), _ANSWERS[kind](function, zh)

    def then(self, function: _Function, zh: bool) -> list[Turn]:
        """Two turns: what it does, then a question that names it no more."""
        kinds = [kind for kind in _kinds(function) if kind in _THEN]
        kind = self.pick(kinds)
        second = (self.pick(_THEN[kind][zh]), _ANSWERS[kind](function, zh))
        return [self.ask(function, "summary", zh), second]

    def one_argument(self, function: _Function, zh: bool) -> Turn:
        told = [item for item in function.record["args"] if item["doc"]]
        item = told[int(self.random.integers(len(told)))]
        return self.pick(p.ARG_ZH if zh else p.ARG_EN).format(x=function.shown, a=item["name"]), item["doc"]

    def about(self, function: _Function) -> Iterator[tuple[str, bool, list[Turn]]]:
        """(kind, Chinese or not, turns) of one function: many for a built-in, one or two for any other."""
        if function.record["module"] == "builtins":
            for phrase in [*p.SUMMARY_EN[:2], self.pick(p.SUMMARY_EN[2:]), self.pick(p.SUMMARY_EN[2:])]:
                yield "summary", False, [self.ask(function, "summary", False, phrase)]
            for phrase in [p.SUMMARY_ZH[0], self.pick(p.SUMMARY_ZH[1:])]:
                yield "summary", True, [self.ask(function, "summary", True, phrase)]
            for kind in _kinds(function)[1:]:
                zh = bool(self.random.random() < _ZH_SHARE)
                yield kind, zh, [self.ask(function, kind, zh)]
            zh = bool(self.random.random() < _ZH_SHARE)
            yield "two turns", zh, self.then(function, zh)
            return
        zh = bool(self.random.random() < _ZH_SHARE)
        usual = p.SUMMARY_EN[0] if not zh and self.random.random() < 0.5 else None
        yield "summary", zh, [self.ask(function, "summary", zh, usual)]
        if self.random.random() < _MORE_SHARE:
            zh = bool(self.random.random() < _ZH_SHARE)
            choices = [*_kinds(function)[1:], "two turns", "two turns"]
            if any(item["doc"] for item in function.record["args"]):
                choices.append("one argument")
            kind = self.pick(choices)
            if kind == "two turns":
                yield kind, zh, self.then(function, zh)
            elif kind == "one argument":
                yield kind, zh, [self.one_argument(function, zh)]
            else:
                yield kind, zh, [self.ask(function, kind, zh)]


def _kinds(function: _Function) -> list[str]:
    kinds = ["summary", "call", "module"]
    # A signature that C code does not tell is not the same as one without arguments.
    if function.record["signature"]:
        kinds.append("arguments")
    if function.record["returns"]:
        kinds.append("returns")
    return kinds


def _greetings(name: str, creator: str) -> Iterator[tuple[str, bool, list[Turn]]]:
    tables = [
        ("greeting", False, p.HELLO_EN, p.HELLO_ANSWERS_EN),
        ("greeting", True, p.HELLO_ZH, p.HELLO_ANSWERS_ZH),
        ("greeting", False, p.BYE_EN, p.BYE_ANSWERS_EN),
        ("greeting", True, p.BYE_ZH, p.BYE_ANSWERS_ZH),
    ]
    for kind, zh, questions, answers in tables:
        for question, answer, _ in product(questions, answers, range(_GREETING_REPEATS)):
            yield kind, zh, [(question, answer.format(name=name, creator=creator))]


def _identity(name: str, creator: str, facts: dict[str, str]) -> Iterator[tuple[str, bool, list[Turn]]]:
    told_en = " ".join(f"{key[:1].upper()}{key[1:]}: {value}." for key, value in facts.items())
    told_zh = "".join(f"{key}：{value}。" for key, value in facts.items())
    who_en, who_zh = (text.format(name=name, creator=creator) for text in (p.WHO_ANSWER_EN, p.WHO_ANSWER_ZH))
    pairs: list[tuple[bool, str, str]] = []
    pairs += [(False, q, (p.NO_EN if q.startswith("Are") else "") + who_en) for q in p.WHO_EN]
    pairs += [(True, q, (p.NO_ZH if q.endswith("吗？") else "") + who_zh) for q in p.WHO_ZH]
    pairs += [(False, q, p.MAKER_ANSWER_EN.format(creator=creator)) for q in p.MAKER_EN]
    pairs += [(True, q, p.MAKER_ANSWER_ZH.format(creator=creator)) for q in p.MAKER_ZH]
    pairs += [(False, q, f"{who_en} {told_en}".strip()) for q in p.HOW_EN]
    pairs += [(True, q, f"{who_zh}{told_zh}") for q in p.HOW_ZH]
    pairs += [(False, q, p.CAN_ANSWER_EN) for q in p.CAN_EN]
    pairs += [(True, q, p.CAN_ANSWER_ZH) for q in p.CAN_ZH]
    pairs += [(False, q.format(key=k), f"{k[:1].upper()}{k[1:]}: {v}.") for q in p.FACT_EN for k, v in facts.items()]
    pairs += [(True, q.format(key=k), f"{k}：{v}。") for q in p.FACT_ZH for k, v in facts.items()]
    for (zh, question, answer), _ in product(pairs, range(_IDENTITY_REPEATS)):
        yield "identity", zh, [(question, answer)]


def _mixed(maker: _Maker, functions: list[_Function], name: str) -> Iterator[tuple[str, bool, list[Turn]]]:
    """A greeting and then a question, or a question and then thanks."""
    for number in range(2 * _CLOSINGS if functions else 0):
        zh = bool(maker.random.random() < 0.5)
        function = functions[int(maker.random.integers(len(functions)))]
        turn = maker.ask(function, "summary", zh)
        if number % 2:
            hello = maker.pick(p.HELLO_ZH if zh else p.HELLO_EN)
            answer = maker.pick(p.HELLO_ANSWERS_ZH if zh else p.HELLO_ANSWERS_EN).format(name=name)
            yield "greeting, then a question", zh, [(hello, answer), turn]
        else:
            thanks = maker.pick(p.THANKS_ZH if zh else p.THANKS_EN)
            yield "question, then thanks", zh, [turn, (thanks, maker.pick(p.WELCOME_ZH if zh else p.WELCOME_EN))]


def _usable(record: dict[str, Any]) -> bool:
    return record["split"] == "train" and len(record["summary"]) >= 10


def _load(path: Path) -> list[_Function]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [_Function(record) for record in map(json.loads, lines) if _usable(record)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PunaError(
            f"is not a list of functions ({error})", where=str(path), mend="build the corpus again"
        ) from error


def make_conversations(functions: Path, out: Path, identity: dict[str, Any], seed: int) -> dict[str, Any]:
    """Write the default conversations (JSON lines) to `out`.

    `identity` is {"name", "creator", "facts": {what: value}}: who the model is and how it was made. Equal arguments give equal
    bytes. Returns {"conversations", "turns", "functions", "kinds": {kind: n}, "languages": {"en", "zh"}, "bytes",
    "shortened": answers cut at 420 characters, "samples"}.
    Raises PunaError where `functions` is no functions.jsonl.
    """
    name, creator = str(identity["name"]), str(identity["creator"])
    facts = {str(key): str(value).rstrip(".。") for key, value in identity.get("facts", {}).items()}
    listed = _load(Path(functions))
    maker = _Maker(seed)
    kinds: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    turns_in_all = shortened = 0
    samples: dict[str, Any] = {}

    def everything() -> Iterator[tuple[str, str, bool, list[Turn]]]:
        for function in listed:
            for kind, zh, turns in maker.about(function):
                yield f"docstrings:{function.record['module']}", kind, zh, turns
        for kind, zh, turns in _greetings(name, creator):
            yield "greetings", kind, zh, turns
        for kind, zh, turns in _identity(name, creator, facts):
            yield "identity", kind, zh, turns
        for kind, zh, turns in _mixed(maker, listed, name):
            yield "docstrings", kind, zh, turns

    out = Path(out)
    size = 0
    with atomic_file(out) as stream:
        for number, (source, kind, zh, turns) in enumerate(everything()):
            messages = []
            for question, answer in turns:
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": _short(answer)})
                shortened += len(answer) > _ANSWER_CHARS
            row = {"id": f"{number:06d}", "messages": messages, "source": source}
            line = canonical_json(row) + b"\n"
            stream.write(line)
            size += len(line)
            kinds[kind] += 1
            languages["zh" if zh else "en"] += 1
            turns_in_all += len(turns)
            samples.setdefault(f"{kind} ({'zh' if zh else 'en'})", messages)
    return {
        "conversations": sum(kinds.values()),
        "turns": turns_in_all,
        "functions": len(listed),
        "kinds": dict(sorted(kinds.items())),
        "languages": dict(sorted(languages.items())),
        "bytes": size,
        "shortened": shortened,
        "samples": samples,
    }


def _short(answer: str) -> str:
    return answer if len(answer) <= _ANSWER_CHARS else answer[:_ANSWER_CHARS].rsplit("\n", 1)[0].rsplit(" ", 1)[0]
