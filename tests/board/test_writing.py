"""File names, JSON in scripts, and the folder that is swapped in whole."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.board.writing import MARK, Folder, replace_board, script_json, slugs
from puna.errors import PunaError
from puna.visible import clean


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=5)), unique=True, max_size=12))
def test_slugs_are_safe_unique_and_do_not_hang_on_order(keys):
    found = slugs(keys)
    assert len(set(found)) == len(keys)
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and 0 < len(one) <= 60 for one in found)
    assert dict(zip(keys, found, strict=True)) == dict(zip(reversed(keys), slugs(keys[::-1]), strict=True))


def test_slugs_keep_plain_names_and_mark_what_they_change():
    plain, chinese, path, device, questions = slugs(
        [("stories260K", ""), ("高原", ""), ("../../etc/passwd", ""), ("con", ""), ("q0", "")]
    )
    assert plain == "stories260k"
    assert len(chinese) == 8 and path == "etc-passwd"
    assert device.startswith("con-") and questions.startswith("q0-")
    assert slugs([("a", "1"), ("a", "2")])[0] != slugs([("a", "1"), ("b", "2")])[0] == "a"


def seen(value):
    """What a reader of JSON finds, with nothing hidden."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): seen(inner) for key, inner in value.items()}
    return [seen(inner) for inner in value] if isinstance(value, list) else value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=8,
    )
)
def test_json_in_a_script_says_the_same_and_ends_nothing(value):
    text = script_json(value)
    assert not set(text) & set("<>&\u2028\u2029\u202e\x00")
    assert json.loads(text) == seen(value)


def test_json_in_a_script_keeps_text_but_for_what_is_hidden():
    assert json.loads(script_json(["</script><!--", "高原", "a\u202eb"])) == ["</script><!--", "高原", "a⟨U+202E⟩b"]
    with pytest.raises(ValueError):
        script_json(float("nan"))


def write(out: Path, **files: str) -> Folder:
    return replace_board(
        out, lambda folder: [folder.text(name.replace("_", "."), text) for name, text in files.items()][0:0] or None
    )


def test_a_board_replaces_a_board_whole(tmp_path):
    out = tmp_path / "deep" / "board"
    write(out, a_html="one", b_html="two")
    write(out, a_html="three")
    assert sorted(path.name for path in out.iterdir()) == [MARK, "a.html"]
    assert (out / "a.html").read_text() == "three"
    assert [path.name for path in out.parent.iterdir()] == ["board"]  # nothing left beside it


def test_a_failure_leaves_the_old_board_and_no_litter(tmp_path):
    out = tmp_path / "board"
    write(out, a_html="one")

    def fails(folder: Folder) -> None:
        folder.text("a.html", "half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        replace_board(out, fails)
    assert (out / "a.html").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["board"]


def test_what_is_no_board_of_ours_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / MARK).write_text('{"form": "something", "files": ["BOARD.json"]}')
    for name in ("mine", "file", "link", "forged"):
        with pytest.raises(PunaError):
            write(tmp_path / name, a_html="one")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "board"
    write(out, a_html="one")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(PunaError, match=r"notes\.txt"):
        write(out, a_html="two")
    assert (out / "a.html").read_text() == "one"
    (tmp_path / "empty").mkdir()
    assert (write(tmp_path / "empty", a_html="one").names) == ["a.html", MARK]


def test_no_file_leaves_the_board(tmp_path):
    with pytest.raises(ValueError, match="leaves the board"):
        Folder(tmp_path).text("../x.html", "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder_is_said_in_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PunaError, match="written|made"):
        write(tmp_path / "board", a_html="one")
