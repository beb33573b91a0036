"""Items in the page of two models: every answer beside its own question, texts bounded, files linear in the models."""

import json
from pathlib import Path

import pytest
from board_sample import HEADER, MODELS, measurement

from puna.board import build_board
from puna.board.items import CHUNK, split_prompt
from puna.judge.measured import Item
from puna.judge.store.store import Store


def loaded(path: Path) -> dict:
    text = path.read_text("utf-8")
    assert text.startswith("(window.PUNA_ITEMS = window.PUNA_ITEMS || {})[")
    return json.loads(text[text.index("] = ") + 4 : -2])


def board_of(site: Path) -> dict:
    return json.loads(
        (site / "data" / "board.js").read_text("utf-8").removeprefix("window.PUNA_BOARD = ").removesuffix(";\n")
    )


def test_every_answer_stands_beside_its_question(sample_site):
    board = board_of(sample_site)
    asked = 0
    for t, task in enumerate(board["tasks"]):
        known = board["items"][t]
        chunks = [loaded(sample_site / "items" / task["slug"] / f"q{k}.js") for k in range(known["chunks"])]
        questions = [
            item | {"head": None if item["head"] is None else chunk["heads"][item["head"]]}
            for chunk in chunks
            for item in chunk["items"]
        ]
        assert len(questions) == known["n"] and all(len(chunk["items"]) == CHUNK for chunk in chunks[:-1])
        for i, model in enumerate(board["models"]):
            path = sample_site / "items" / task["slug"] / f"{model['slug']}.js"
            assert path.exists() == board["answers"][i][t]
            who = next((k for k, facts in enumerate(MODELS) if facts.name == model["name"]), None)
            if not path.exists() or who is None:
                continue
            which = next(k for k in range(6) if measurement(0, k).task.name == task["name"])
            items = {item.id: item for item in measurement(who, which).items}
            told = loaded(path)
            for place, question in enumerate(questions):
                item = items[question["id"]]
                assert told["scores"][place] == pytest.approx(item.score, rel=1e-6)
                assert told["answers"][place] == item.answer
                assert (told["ll"][place] or []) == [pytest.approx(value) for value in item.loglikelihoods]
                assert told["cut"].get(str(place), 0) == item.truncated
                assert (place in told["tie"]) == item.tie
                assert (question["head"] or "") + question["prompt"] == item.prompt.replace("\u2028", "⟨U+2028⟩")
                asked += 1
    assert asked > 2000


def test_examples_are_folded_away_once_for_each_file(sample_site):
    chunk = loaded(sample_site / "items" / "arc-challenge" / "q0.js")
    assert chunk["heads"] == [HEADER]


def test_prompts_of_ones_own_and_other_samples_of_items(tmp_path):
    store = Store(tmp_path / "store")
    first, second = measurement(0, 0), measurement(1, 0)
    chat = [item.model_copy(update={"prompt": f"<|user|>{item.question}"}) for item in second.items[60:][::-1]]
    extra = chat[0].model_copy(update={"id": "only here"})
    task = second.task.model_copy(update={"prompt_digest": "other"})
    store.add(first, now=1)
    store.add(
        second.model_copy(
            update={
                "items": (*chat, extra),
                "task": task,
            }
        ),
        now=1,
    )
    site = tmp_path / "board"
    build_board(store.results(), site)
    board = board_of(site)
    assert board["items"][0]["n"] == 121 and len(board["tasks"]) == 1
    places = {
        item["id"]: k * CHUNK + at
        for k in range(3)
        for at, item in enumerate(loaded(site / "items/arc-challenge" / f"q{k}.js")["items"])
    }
    asked = {
        board["models"][i]["name"]: loaded(site / "items/arc-challenge" / f"{board['models'][i]['slug']}.js")
        for i in range(2)
    }
    late = asked[MODELS[1].name]
    # Which result is read first is not the point: whichever it is, what is not asked is null, and other prompts are kept.
    assert {id_ for id_, place in places.items() if place < len(late["asked"]) and late["asked"][place] == "1"} == {
        item.id for item in (*chat, extra)
    }
    own = asked[MODELS[0].name]["prompts"] or late["prompts"]
    assert len(own) == 60
    pair = board["pairs"][0]
    assert pair["paired"] == "0"  # the prompts differ: not item by item
    task_page = (site / "tasks/arc-challenge.html").read_text("utf-8")
    assert "questions and prompts: 2 different sets" in task_page and "the prompts differ" in task_page


def test_a_prompt_is_cut_before_the_question():
    item = Item(id="1", question="Why?", prompt="Q: A\nA: B\n\nQ: C\nA: D\n\nQ: Why?\nA:")
    assert split_prompt(item) == ("Q: A\nA: B\n\nQ: C\nA: D\n\n", "Q: Why?\nA:")
    assert split_prompt(Item(id="1", question="Why?", prompt="Q: Why?\n")) == ("", "Q: Why?\n")
    assert split_prompt(Item(id="1", question="", prompt="")) == ("", "")


def test_long_texts_are_cut_with_a_sign(tmp_path):
    one = measurement(0, 0)
    item = one.items[0].model_copy(
        update={"question": "q" * 50_000, "prompt": "p" * 500_000, "choices": ("c" * 9_000, "d"), "target": (1,)}
    )
    store = Store(tmp_path / "store")
    store.add(one.model_copy(update={"items": (item, *one.items[1:])}), now=1)
    build_board(store.results(), tmp_path / "board")
    path = tmp_path / "board/items/arc-challenge/q0.js"
    assert path.stat().st_size < 60_000
    told = loaded(path)["items"][0]
    assert "[…]" in told["q"] and "[…]" in told["prompt"] and "[…]" in told["choices"][0]
