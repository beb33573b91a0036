"""Replies of a wanted shape have it, whatever the logits; what cannot be held to, or would hold others up, is refused."""

import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from puna.engine import Engine
from puna.engine.choosing import NOTHING, Chooser, RowState
from puna.engine.constrain import Constraint, Constraints
from puna.engine.request import Shape
from puna.engine.sampling import Sampling
from puna.errors import PunaError
from puna.tokens import Tokenizer

jsonschema = pytest.importorskip("jsonschema")
DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
NAMES = ["name", "名字", 'a "quoted" one', "城市/省", "back\\slash", "new\nline", "🦙", "x-y"]
VALUES = ["llama", "羊驼", 'say "hi"', 7, -3.5, None, True, ["草", 1], {"键": "值"}]


@pytest.fixture(scope="module")
def tokens(engine: Engine) -> Tokenizer:
    return engine.tokenizer


@pytest.fixture(scope="module")
def shapes(engine: Engine) -> Constraints:
    return Constraints(engine.tokenizer, engine.config.vocab_size, engine.stop_ids)


def written(constraint: Constraint, engine: Engine, seed: int, most: int = 600) -> tuple[str, bool]:
    """A reply out of random logits, and whether it came to its end."""
    chooser = Chooser(engine.config.vocab_size, engine.banned_ids)
    row = RowState(Sampling(seed=seed, temperature=1.0, top_p=1.0), [1], engine.config.vocab_size, constraint)
    numbers, ids = torch.Generator().manual_seed(seed), []
    while len(ids) < most and not constraint.finished:
        logits = torch.randn(1, engine.config.vocab_size, generator=numbers)
        logits[:, list(engine.stop_ids)] += 3  # else what may go on for ever seldom ends
        (id_,) = chooser.choose([row], logits).tolist()
        assert id_ != NOTHING, row.why_nothing()
        row.push(id_)
        ids.append(id_)
    if ids and ids[-1] in engine.stop_ids:
        ids.pop()
    return engine.tokenizer.text_bytes(ids).decode("utf-8", "replace"), constraint.finished


def a_schema(numbers: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    kind = numbers.choice(kinds + (["object", "object", "array", "anyOf"] if depth < 3 else []))
    match kind:
        case "string":
            least = numbers.randrange(3)
            return {"type": "string", "minLength": least, "maxLength": least + numbers.randrange(5)}
        case "integer":
            least = numbers.randrange(-2000, 2000)
            return {"type": "integer", "minimum": least, "maximum": least + numbers.randrange(3000)}
        case "number":
            bounds = {"minimum": numbers.choice([-1.5, 0, 0.25])} if numbers.random() < 0.5 else {}
            return {"type": "number", **bounds}
        case "enum":
            return {"enum": numbers.sample(VALUES, 3)}
        case "const":
            return {"const": numbers.choice(VALUES)}
        case "array":
            least = numbers.randrange(3)
            return {"type": "array", "items": a_schema(numbers, depth + 1), "minItems": least,
                    "maxItems": least + numbers.randrange(3)}  # fmt: skip
        case "anyOf":
            return {"anyOf": [a_schema(numbers, depth + 1) for _ in range(2)]}
        case "object":
            names = numbers.sample(NAMES, numbers.randrange(1, 5))
            required = [name for name in names if numbers.random() < 0.6]
            return {"type": "object", "properties": {name: a_schema(numbers, depth + 1) for name in names},
                    "required": required, "additionalProperties": False, "description": "任意"}  # fmt: skip
    return {"type": kind}


def test_replies_out_of_random_logits_are_valid_json_of_200_random_schemas(shapes: Constraints, engine: Engine):
    numbers, ended, objects = random.Random(7), 0, 0
    for seed in range(200):
        schema = a_schema(numbers, depth=seed % 2)
        text, finished = written(shapes.start(Shape(json_schema=schema)), engine, seed)
        if finished:
            value = json.loads(text)
            jsonschema.validate(value, schema)
            ended, objects = ended + 1, objects + isinstance(value, dict)
    assert ended >= 195 and objects >= 30


def test_chinese_names_and_strings(shapes: Constraints, engine: Engine):
    schema = {"type": "object", "properties": {"姓名": {"enum": ["羊驼", "美洲驼"]}, "年龄": {"type": "integer"}},
              "required": ["姓名", "年龄"], "additionalProperties": False}  # fmt: skip
    found = set()
    for seed in range(12):
        text, finished = written(shapes.start(Shape(json_schema=schema)), engine, seed)
        assert finished
        value = json.loads(text)
        jsonschema.validate(value, schema)
        found.add(value["姓名"])
    assert found == {"羊驼", "美洲驼"}


def test_references_within_the_schema_and_recursion(shapes: Constraints, engine: Engine):
    schema = {"$defs": {"树": {"type": "object", "properties": {"v": {"type": "boolean"}, "kids": {
              "type": "array", "items": {"$ref": "#/$defs/树"}, "maxItems": 1}}, "required": ["v", "kids"],
              "additionalProperties": False}}, "$ref": "#/$defs/树"}  # fmt: skip
    ended = 0
    for seed in range(10):
        text, finished = written(shapes.start(Shape(json_schema=schema)), engine, seed)
        if finished:
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))  # 树 as such is no URI for its check
            ended += 1
    assert ended >= 5


def test_a_reference_is_no_name_or_datum_and_names_may_be_percent_encoded(shapes: Constraints, engine: Engine):
    schema = {"$defs": {"a b/树": {"type": "boolean"}}, "type": "object", "properties": {
              "x": {"$ref": "#/$defs/a%20b~1树"}, "y": {"const": {"$ref": "树"}}}, "required": ["x", "y"],
              "additionalProperties": False}  # fmt: skip
    text, finished = written(shapes.start(Shape(json_schema=schema)), engine, 3)
    assert finished and json.loads(text)["y"] == {"$ref": "树"} and json.loads(text)["x"] in (True, False)


def test_any_json_object(shapes: Constraints, engine: Engine):
    """`response_format: json_object`."""
    for seed in range(20):
        text, finished = written(shapes.start(Shape(json_schema={"type": "object"})), engine, seed, most=300)
        assert text.startswith("{")
        if finished:
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("regex", [r"[a-c]{2,5}\d+", "你好(，世界)?。", r'"/(a|b)"\n[^x]', r"\p{Han}{1,3}|x", ""])
def test_expressions(regex: str, shapes: Constraints, engine: Engine):
    unicode = regex.replace(r"\p{Han}", "[\u2e80-\U0003ffff]")
    for seed in range(10):
        text, finished = written(shapes.start(Shape(regex=regex)), engine, seed)
        assert finished and re.fullmatch(unicode, text)


def test_grammars(shapes: Constraints, engine: Engine):
    shape = Shape(lark='start: sum\nsum: NUMBER | NUMBER "+" sum\nNUMBER: /[1-9]{1,2}/')
    for seed in range(10):
        text, finished = written(shapes.start(shape), engine, seed)
        assert finished and re.fullmatch(r"[1-9]{1,2}(\+[1-9]{1,2})*", text)


def fed(constraint: Constraint, tokens: Tokenizer, text: str) -> Constraint:
    for id_ in tokens.encode(text):
        constraint.take(id_)
    return constraint


def test_an_end_is_allowed_where_the_shape_is_complete_and_nowhere_else(shapes: Constraints, engine: Engine):
    tokens, ends = engine.tokenizer, sorted(engine.stop_ids)
    constraint = shapes.start(Shape(regex="ab+"))
    for text, whole in (("", False), ("a", False), ("b", True), ("b", True)):
        fed(constraint, tokens, text)
        assert constraint.mask()[ends].tolist() == [whole] * len(ends)
        assert constraint.complete is whole and not constraint.finished
    constraint.take(ends[0])
    assert constraint.finished and np.flatnonzero(constraint.mask()).tolist() == ends
    whole = fed(shapes.start(Shape(json_schema={"const": "羊驼"})), tokens, '"羊驼"')
    assert whole.finished and np.flatnonzero(whole.mask()).tolist() == ends


def test_ids_that_are_no_text_are_never_allowed(shapes: Constraints, engine: Engine):
    nothing = sorted(
        (engine.tokenizer.special_ids | set(range(engine.tokenizer.vocab_size, engine.config.vocab_size)))
        - engine.stop_ids
    )
    assert nothing
    for shape in (Shape(regex=r"(.|\n)*"), Shape(json_schema={"type": "string"}), Shape(regex=r"<\|im_start\|>")):
        mask = shapes.start(shape).mask()
        assert mask.shape == (engine.config.vocab_size,) and mask.any() and not mask[nothing].any()


def test_a_wrong_id_is_refused_and_harms_nothing(shapes: Constraints, tokens: Tokenizer):
    constraint = shapes.start(Shape(regex="ab"))
    for wrong in (*tokens.encode("b"), -1, 10**6, tokens.eos_id):
        with pytest.raises(ValueError, match="does not go on from here"):
            constraint.take(wrong)
    assert fed(constraint, tokens, "ab").finished
    with pytest.raises(ValueError, match="does not go on"):
        constraint.take(tokens.encode("a")[0])


def test_a_copy_goes_its_own_way(shapes: Constraints, tokens: Tokenizer):
    one = fed(shapes.start(Shape(regex="a(b|c)")), tokens, "a")
    other = one.copy()
    fed(one, tokens, "b")
    assert one.finished and not other.finished
    assert fed(other, tokens, "c").finished
    assert not shapes.start(Shape(regex="a(b|c)")).complete


def test_what_is_certain_is_spelled_as_the_tokenizer_spells_it(shapes: Constraints, tokens: Tokenizer):
    schema = {"type": "object", "properties": {"puna": {"enum": ["高原", "高山"]}}, "required": ["puna"],
              "additionalProperties": False}  # fmt: skip
    constraint = shapes.start(Shape(json_schema=schema))
    ids = constraint.forced()
    text = tokens.text_bytes(ids).decode()
    assert len(ids) > 1 and '{"puna": "高'.startswith(text) and ids == tokens.encode('{"puna": "')[: len(ids)]
    fed(constraint, tokens, '{"puna": "高')
    rest = constraint.forced()  # 原 and 山 may begin with the same byte; what they share is certain
    assert tokens.text_bytes(rest) in ("原".encode()[:1], b"")
    fed(constraint, tokens, '山"')
    assert tokens.text_bytes(constraint.forced()) == b"}" and not constraint.finished
    assert fed(constraint, tokens, "}").forced() == []
    assert shapes.start(Shape(regex="[ab]c")).forced() == []


def test_what_is_certain_may_begin_within_a_character(shapes: Constraints, tokens: Tokenizer):
    constraint, data = shapes.start(Shape(regex="驼羊在这里走路说话唱歌")), "驼羊在这里走路说话唱歌".encode()
    single = {tokens.token_bytes(id_): id_ for id_ in range(tokens.vocab_size) if id_ not in tokens.special_ids}
    constraint.take(single[data[:1]])
    ids = constraint.forced()
    assert ids and data[1:].startswith(b"".join(tokens.token_bytes(id_) for id_ in ids))
    for id_ in ids:
        constraint.take(id_)


def test_a_model_without_an_end_token(tokens: Tokenizer):
    shapes = Constraints(tokens, tokens.vocab_size + 2, ())
    constraint = shapes.start(Shape(regex="a+"))
    assert fed(constraint, tokens, "aa").complete
    assert not any(id_ in tokens.special_ids for id_ in np.flatnonzero(constraint.mask()))
    assert not fed(shapes.start(Shape(regex="ab")), tokens, "ab").mask().any()


@pytest.mark.parametrize("folder", ["weights/stories260K", "tokenizers/llama2_spm32k", "tokenizers/gpt-2"])
def test_tokenizers_of_other_models(folder: str):
    """SentencePiece with byte fallback (an id for 'a' and one for the byte 'a'), and a large byte-level one."""
    from puna.tokens.formats import open_tokenizer

    if not (DATA / folder).exists():
        pytest.skip(f"shared/data/{folder} is not here")
    tokens = open_tokenizer(DATA / folder)
    schema = {"type": "object", "properties": {"名": {"enum": ["羊驼", "a\u00e9"]}, "n": {"type": "boolean"}},
              "required": ["名", "n"], "additionalProperties": False}  # fmt: skip
    shapes = Constraints(tokens, tokens.vocab_size, tokens.stop_ids)
    numbers = random.Random(1)
    for use_forced in (False, True, True, False):
        constraint, data = shapes.start(Shape(json_schema=schema)), b""
        while not constraint.finished:
            ids = constraint.forced() if use_forced else []
            for id_ in ids or [numbers.choice(np.flatnonzero(constraint.mask()).tolist())]:
                constraint.take(id_)
                data += tokens.token_bytes(id_)
        jsonschema.validate(json.loads(data.decode()), schema)
    twins = [
        id_ for id_ in range(tokens.vocab_size) if tokens.token_bytes(id_) == b"a" and id_ not in tokens.special_ids
    ]
    assert shapes.start(Shape(regex="a")).mask()[twins].all()


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(5000):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    "shape, said",
    [
        (Shape(json_schema={"$ref": "http://127.0.0.1:9/x.json"}), "nothing is fetched"),
        (Shape(json_schema={"properties": {"a": {"items": {"$ref": "file:///etc/passwd"}}}}), "nothing is fetched"),
        (Shape(json_schema={"$schema": "http://127.0.0.1:9/s.json", "type": "string"}), "cannot be held to"),
        (Shape(json_schema={"$ref": "#/$defs/missing"}), "cannot be held to"),
        (Shape(json_schema=DEEP), "nested more than 64 deep"),
        (Shape(json_schema={"enum": ["x" * 70_000]}), "may have 65536"),
        (Shape(json_schema={"const": "\ud800"}), "lone surrogate"),
        (Shape(json_schema={"const": float("nan")}), "no JSON"),
        (Shape(json_schema=False), "allows nothing"),
        (Shape(json_schema={"type": 17}), "cannot be held to"),
        (Shape(json_schema={"properties": [1]}), "cannot be held to"),
        (Shape(json_schema={"type": "integer", "minimum": -(10**400)}), "cannot be held to"),
        (Shape(json_schema={"if": {"type": "string"}, "then": {"minLength": 1}}), "Unimplemented"),
        (Shape(json_schema={"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}), "oneOf"),
        (Shape(json_schema={"type": "array", "uniqueItems": True}), "cannot be held to"),
        (Shape(json_schema={"$ref": "#"}), "cannot be held to"),
        (Shape(json_schema={"type": "string", "pattern": "a" * 5000}), "may have 4096"),
        (Shape(regex="(("), "unclosed group"),
        (Shape(regex="(?=a)b"), "look-around"),
        (Shape(regex="x" * 5000), "may have 4096"),
        (Shape(lark="start: nowhere"), "cannot be held to"),
        (Shape(lark='start: %json {"$ref": "http://127.0.0.1:9/x.json"}'), "cannot be held to"),
        (Shape(lark="start: " + "x" * 70_000), "may have 65536"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_to_is_refused_in_one_line(shape: Shape, said: str, shapes: Constraints):
    with pytest.raises(PunaError) as caught:
        shapes.start(shape, where="tools")
    line = caught.value.line()
    assert line.startswith("tools: ") and said in line and len(line) < 600 and "\n" not in line


def test_names_and_data_that_look_like_keywords_are_neither(shapes: Constraints, engine: Engine):
    schema = {"type": "object", "properties": {"$ref": {"const": "x"}, "pattern": {"enum": [{"$ref": "http://x"}]}},
              "required": ["$ref", "pattern"], "additionalProperties": False}  # fmt: skip
    text, finished = written(shapes.start(Shape(json_schema=schema)), engine, 1)
    assert finished and json.loads(text) == {"$ref": "x", "pattern": {"$ref": "http://x"}}


def test_the_librarys_switches_are_not_the_clients(shapes: Constraints, engine: Engine):
    schema = {"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 3,
              "x-guidance": {"whitespace_flexible": True, "item_separator": ";", "lenient": True}}  # fmt: skip
    assert written(shapes.start(Shape(json_schema=schema)), engine, 0) == ("[1, 1, 1]", True)
    with pytest.raises(PunaError, match="Unimplemented"):
        shapes.start(Shape(json_schema={"x-guidance": {"lenient": True}, "if": {}, "type": "string"}))


HOSTILE = {
    "a million certain bytes": Shape(regex="((a{100}){100}){100}"),
    "later": Shape(regex="[ab]((a{100}){100}){100}"),
    "a million certain items": Shape(json_schema={"type": "array", "items": {"const": "a"}, "minItems": 10**6}),
    "8**30 certain properties": Shape(json_schema={"$defs": {f"d{n}": {"type": "object", "properties": {
        name: {"$ref": f"#/$defs/d{n + 1}"} for name in "abcdefgh"}, "required": list("abcdefgh"), "additionalProperties": False}
        for n in range(30)} | {"d30": {"const": "x"}}, "$ref": "#/$defs/d0"}),
    "exponential states": Shape(regex="[ab]*a[ab]{18}"),
    "optional repeats": Shape(regex="(a?){1000}a{1000}"),
    "a huge length": Shape(json_schema={"type": "string", "minLength": 10**6, "maxLength": 10**9}),
    "a doubling grammar": Shape(lark="start: r0\n" + "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(40)) + '\nr40: "a"'),
    "twenty patterns at once": Shape(json_schema={"type": "string", "allOf": [{"pattern": f"[ab]*a[ab]{{{n}}}"} for n in range(20)]}),
    "1500 optional properties": Shape(json_schema={"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(1500)}}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shape_is_refused_or_bounded(name: str, shapes: Constraints):
    """Each step is bounded, by time on an idle machine some ten milliseconds; what cannot be bounded is stopped while it compiles."""
    began = time.monotonic()
    if name == "twenty patterns at once":
        with pytest.raises(PunaError, match="it takes .* to compile"):
            shapes.start(HOSTILE[name])
        assert time.monotonic() - began < 25
        return
    constraint = shapes.start(HOSTILE[name])
    assert time.monotonic() - began < 25
    numbers, worst = random.Random(1), 0.0
    for _ in range(60):
        began = time.thread_time()
        allowed = np.flatnonzero(constraint.mask())
        constraint.forced()
        worst = max(worst, time.thread_time() - began)
        if not len(allowed) or constraint.finished:
            break
        constraint.take(int(numbers.choice(allowed.tolist())))
    assert worst < 0.5


def test_a_shape_that_comes_again_is_not_compiled_again(engine: Engine):
    shapes = Constraints(engine.tokenizer, engine.config.vocab_size, engine.stop_ids)
    began = time.perf_counter()
    shapes.start(Shape(regex="a{3}b"))
    first = time.perf_counter() - began
    began = time.perf_counter()
    shapes.start(Shape(regex="a{3}b"))
    assert time.perf_counter() - began < first / 3
    for number in range(70):
        shapes.start(Shape(json_schema={"const": number}))
    assert len(shapes._compiled) == 64


def test_threads_start_shapes_together(engine: Engine):
    shapes, failed = Constraints(engine.tokenizer, engine.config.vocab_size, engine.stop_ids), []

    def work(seed: int) -> None:
        try:
            for number in range(10):
                text, finished = written(shapes.start(Shape(json_schema={"const": [seed % 3, number]})), engine, seed)
                assert finished and json.loads(text) == [seed % 3, number]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
