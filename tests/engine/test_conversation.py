"""A conversation fits the context, says what it let go, and is saved in a form that tuning reads."""

import json
from pathlib import Path

import pytest

from puna.engine import Conversation, Engine
from puna.errors import PunaError


def test_short_talk_is_kept_whole(engine: Engine):
    talk = Conversation(engine.tokenizer, 96, system="be kind")
    talk.say("user", "你好")
    ids, dropped = talk.prompt(reserve=10)
    assert dropped == 0
    text = engine.tokenizer.decode(ids, skip_special=False)
    assert text == ("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n")


def test_the_oldest_turns_are_let_go_in_whole_exchanges(engine: Engine):
    talk = Conversation(engine.tokenizer, 96, system="kind")
    for n in range(6):
        talk.say("user", f"question {n}")
        talk.say("assistant", f"answer {n}")
    talk.say("user", "last")
    ids, dropped = talk.prompt(reserve=20)
    assert len(ids) <= 76
    assert dropped in range(2, 12, 2)
    assert talk.messages[0] == {"role": "system", "content": "kind"}
    assert talk.messages[1] == {"role": "user", "content": f"question {dropped // 2}"}
    assert talk.messages[-1]["content"] == "last"
    assert talk.prompt(reserve=20) == (ids, 0)


def test_a_large_reserve_leaves_half_of_the_context(engine: Engine):
    talk = Conversation(engine.tokenizer, 96)
    talk.say("user", "the llama walks")
    assert talk.prompt(reserve=10_000)[1] == 0


def test_one_message_too_long_is_refused_and_nothing_is_lost(engine: Engine):
    talk = Conversation(engine.tokenizer, 96)
    talk.say("user", "hello")
    talk.say("assistant", "yes")
    talk.say("user", "羊驼 xyz " * 60)
    with pytest.raises(PunaError, match="room for 86"):
        talk.prompt(reserve=10)
    talk.unsay()
    assert [turn["content"] for turn in talk.turns] == ["hello", "yes"]


def test_markers_typed_by_a_user_stay_text(engine: Engine):
    talk = Conversation(engine.tokenizer, 96)
    talk.say("user", "<|im_end|>")
    ids, _ = talk.prompt(reserve=1)
    assert ids.count(engine.tokenizer.im_end_id) == 1


def test_reset_and_save(engine: Engine, tmp_path: Path):
    talk = Conversation(engine.tokenizer, 96, system="kind")
    talk.say("user", "你好")
    talk.say("assistant", "hi")
    talk.save(tmp_path / "talk.jsonl")
    lines = (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"] for line in lines] == [talk.messages]
    talk.say("user", "再见")
    talk.save(tmp_path / "talk.jsonl")  # its own file grows with it
    assert "再见" in (tmp_path / "talk.jsonl").read_text(encoding="utf-8")
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(PunaError, match="exists already"):
        talk.save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "precious"
    with pytest.raises(PunaError, match="cannot write"):
        talk.save(tmp_path / "absent" / "talk.json")
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "kind"}]
    with pytest.raises(PunaError, match="nothing to save"):
        talk.save(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="role"):
        talk.say("system", "no")


def test_what_is_let_go_stays_in_the_file(engine: Engine, tmp_path: Path):
    talk = Conversation(engine.tokenizer, 96, system="kind")
    for n in range(6):
        talk.say("user", f"question {n}")
        talk.prompt(reserve=20)
        talk.say("assistant", f"answer {n} 你好")
    assert talk.gone
    talk.save(tmp_path / "talk.jsonl")
    again = Conversation(engine.tokenizer, 96)
    again.load(tmp_path / "talk.jsonl")
    assert again.system == "kind"
    assert again.turns == talk.gone + talk.turns
    again.say("user", "last")
    assert len(again.prompt(reserve=20)[0]) <= 76
    again.say("assistant", "yes")
    again.save(tmp_path / "talk.jsonl")  # its own: it was loaded from there
    assert '"question 0"' in (tmp_path / "talk.jsonl").read_text(encoding="utf-8")
    with pytest.raises(PunaError, match="changed by another program"):
        talk.save(tmp_path / "talk.jsonl")


def test_the_last_message_is_taken_back_with_its_reply(engine: Engine):
    talk = Conversation(engine.tokenizer, 96)
    with pytest.raises(PunaError, match="nothing was said"):
        talk.take_back()
    for text in ("hello", "你好"):
        talk.say("user", text)
        talk.say("assistant", "yes")
    assert talk.take_back() == "你好"
    assert [turn["content"] for turn in talk.turns] == ["hello", "yes"]
    talk.say("user", "unanswered")
    assert talk.take_back() == "unanswered"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "holds 0 lines"),
        ("no json", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"messages": "text"}', "holds no conversation"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "its role"),
        ('{"messages": [{"role": "user", "content": null}]}', "not a text"),
        ('{"messages": [{"role": "user", "content": "\\udc00"}]}', "not JSON"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}', "in the middle"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n' * 2, "holds 2 lines"),
    ],
)
def test_a_file_that_is_no_conversation_is_refused_and_nothing_changes(
    engine: Engine, tmp_path: Path, content: str, why: str
):
    file = tmp_path / "talk.jsonl"
    file.write_text(content, encoding="utf-8")
    talk = Conversation(engine.tokenizer, 96, system="kind")
    talk.say("user", "hello")
    with pytest.raises(PunaError, match=why) as caught:
        talk.load(file)
    assert caught.value.where == str(file)
    assert talk.messages == [{"role": "system", "content": "kind"}, {"role": "user", "content": "hello"}]
    with pytest.raises(PunaError, match="exists already"):
        talk.save(file)


def test_a_file_with_more_in_it_is_read_and_not_written_over(engine: Engine, tmp_path: Path):
    file = tmp_path / "talk.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}], "source": "mine"}\n')
    talk = Conversation(engine.tokenizer, 96)
    talk.load(file)
    assert not talk.owns(file)
    with pytest.raises(PunaError, match="exists already"):
        talk.save(file)
