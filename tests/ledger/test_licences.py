"""The table of licences: whole, of one form, found by any name, recognised by its text, and looked at clause by clause."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from puna.card import Card
from puna.errors import PunaError
from puna.ledger.licences import (
    Shown,
    kept_counts,
    known_licences,
    licence_named,
    licence_of_repository,
    licences_in,
    look_at,
    read_texts,
    stated_in_files,
    table_version,
)

LLAMA_3 = "META LLAMA 3 COMMUNITY LICENSE AGREEMENT\n\nMeta Llama 3 Version Release Date: April 18, 2024\n"
NOTICE_3 = "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."


def states(identifier: str, shown: Shown) -> dict[str, bool | None]:
    """{check: kept} of a licence's obligations that a program can look at."""
    facts = licence_named(identifier)
    assert facts is not None
    return {one.asked.check: one.kept for one in look_at(facts, shown)}


def test_the_table_is_whole() -> None:
    ids = [identifier for facts in known_licences() for identifier in facts.ids]
    assert len(ids) == len(set(ids)) and all(identifier == identifier.lower() for identifier in ids)
    wanted = {"llama-1", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "yi-license", "yi-apache-2.0", "gemma", "tongyi-qianwen", "qwen",
              "qwen-research", "apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "psf-2.0",
              "bigscience-openrail-m", "mrl", "deepseek", "gpl-3.0"}  # fmt: skip
    assert wanted <= set(ids) and table_version() == "2026-11"
    for facts in known_licences():
        assert facts.source.startswith("https://") and facts.title and len(facts.date) == 10, facts.ids
        assert not facts.checked or facts.read, f"{facts.ids[0]}: said to be read, and not in what"
        assert licence_named(facts.refines) is not None or not facts.refines
        for asked in facts.obligations:
            assert (
                bool(asked.of) == (asked.check in ("name", "text", "notice", "restrictions", "policy"))
                or asked.check == "copy"
            ), (facts.ids, asked)
        if any(asked.check == "non_commercial" for asked in facts.obligations):
            assert not facts.commercial, facts.ids


def test_it_needs_no_torch() -> None:
    code = "import sys, puna.ledger.licences as one; one.known_licences(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("repository", "identifier"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama2"), ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"), ("meta-llama/Meta-Llama-3.1-8B", "llama3.1"),
        ("meta-llama/Llama-3.2-1B", "llama3.2"), ("Qwen/Qwen2.5-3B-Instruct", "qwen-research"), ("Qwen/Qwen2.5-7B", "apache-2.0"),
        ("Qwen/Qwen2-72B", "qwen"), ("01-ai/Yi-34B", "yi-apache-2.0"), ("google/gemma-2-2b", "gemma"), ("nobody/Llama-2-7b", None),
    ],
)  # fmt: skip
def test_makers_repositories(repository: str, identifier: str | None) -> None:
    found = licence_of_repository(repository)
    assert (found and found.ids[0]) == identifier


def test_names_in_any_case() -> None:
    assert licence_named(" Apache-2.0 ") is licence_named("apache-2.0") is not None
    assert (
        licence_named("llama-3.1") is licence_named("llama3.1")
        and licence_named("other") is None
        and licence_named(None) is None
    )


@pytest.mark.parametrize(
    ("text", "identifiers"),
    [
        (LLAMA_3, ["llama3"]),
        ("**LLAMA 3.3 COMMUNITY LICENSE AGREEMENT**\n\n Llama 3.3 Version Release Date", ["llama3.3"]),
        ("                                 Apache License\n                           Version 2.0, January 2004\n", ["apache-2.0"]),
        ("# Gemma Terms of Use\n\nLast modified: April 1, 2024", ["gemma"]),
        ("Tongyi Qianwen RESEARCH LICENSE AGREEMENT", ["qwen-research"]),
        ("Tongyi Qianwen LICENSE AGREEMENT", ["qwen"]),
        ("GNU GENERAL PUBLIC LICENSE\n...\n13. Use with the GNU Affero General Public License.", ["gpl-3.0", "agpl-3.0"]),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\n... the GNU General Public License", ["agpl-3.0", "gpl-3.0"]),
        ("Attribution-NonCommercial-ShareAlike 4.0 International\n====", ["cc-by-nc-sa-4.0"]),
        ("LLaMA LICENSE AGREEMENT\nThis License Agreement", ["llama-1"]),
        ("All rights reserved.", []),
    ],
)  # fmt: skip
def test_texts_are_recognised(text: str, identifiers: list[str]) -> None:
    assert [facts.ids[0] for facts in licences_in(text)] == identifiers


def test_the_licence_of_the_python_that_runs_this() -> None:
    path = Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt"
    if not path.is_file():
        pytest.skip("this Python has no LICENSE.txt")
    assert licences_in(path.read_text(encoding="utf-8"))[0].ids[0] == "psf-2.0"


def test_a_name_and_a_notice() -> None:
    bare = Shown("SuperChat-8B", files={}, stated="apache-2.0")
    assert states("llama3", bare) == {
        "copy": False,
        "text": False,
        "name": False,
        "notice": False,
        "policy": None,
        "unseen": None,
    }
    files = {
        "README.md": "Built  with **Meta Llama 3**",
        "LICENSE": LLAMA_3,
        "NOTICE.txt": NOTICE_3.replace("©", "(c)"),
        "USE_POLICY.md": "llama3/use-policy",
    }
    for name in ("Llama-3-Super", "someone/llama 3 super", "Llama3_Super"):
        assert states("llama3", Shown(name, files=files)) == {
            "copy": True,
            "text": True,
            "name": True,
            "notice": True,
            "policy": None,
            "unseen": None,
        }
    assert states("llama3.1", Shown("Llama-Super", files=files))["name"] is True
    assert states("llama3", Shown("Llama-Super", files=files))["name"] is False


def test_a_notice_must_be_in_a_notice() -> None:
    facts = licence_named("llama3")
    assert facts is not None
    found = {
        one.asked.check: one for one in look_at(facts, Shown("x", files={"README.md": NOTICE_3, "NOTICE": "nothing"}))
    }
    assert found["notice"].kept is False and "README.md has it, a NOTICE has not" in found["notice"].how
    other = look_at(facts, Shown("x", files={"LICENSE": "Apache License Version 2.0, January 2004"}))[0]
    assert other.kept is False and "LICENSE is another licence's text (Apache License 2.0)" in other.how
    assert kept_counts(look_at(facts, Shown("x"))) == (0, 1, 6)  # a single file: only its name is seen


@pytest.mark.parametrize(
    ("licence", "stated", "kept"),
    [
        ("llama-1", "mit", False),
        ("llama-1", "cc-by-nc-4.0", True),
        ("llama-1", None, None),
        ("mrl", "my-own", None),
        ("mrl", "mrl", True),
    ],
)
def test_no_commercial_use(licence: str, stated: str | None, kept: bool | None) -> None:
    assert states(licence, Shown("x", stated=stated))["non_commercial"] is kept


def test_share_alike_and_restrictions() -> None:
    assert states("cc-by-sa-4.0", Shown("x", stated="CC-BY-SA-4.0"))["same_licence"] is True
    assert states("cc-by-sa-4.0", Shown("x", stated="mit"))["same_licence"] is False
    assert states("gemma", Shown("x", files={}, stated="mit"))["restrictions"] is False
    assert (
        states("gemma", Shown("x", files={"README.md": "see ai.google.dev/gemma/prohibited_use_policy"}, stated="mit"))[
            "restrictions"
        ]
        is True
    )
    assert states("gemma", Shown("x", files={}, stated="gemma"))["restrictions"] is True
    assert states("apache-2.0", Shown("x", Card(parents=("a/b",)), files={}))["changes"] is True
    assert states("apache-2.0", Shown("x", files={}))["changes"] is None


def test_texts_of_a_folder(tmp_path: Path) -> None:
    for name, text in {
        "README.md": "a",
        "LICENSE_GEMMA.md": "Gemma Terms of Use\nLast modified",
        "Notice": "b",
        "model.txt": "no",
        "license.bin": "no",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "LICENSE").write_bytes(b"\xff\xfe not UTF-8")
    (tmp_path / "LICENSE.txt").write_bytes(b"x" * (2 << 20))
    found = read_texts(tmp_path)
    assert set(found) == {"README.md", "LICENSE_GEMMA.md", "Notice", "LICENSE"}
    stated = stated_in_files(found)
    assert stated is not None and (stated[0].ids[0], stated[1]) == ("gemma", "LICENSE_GEMMA.md")
    os.symlink("/etc/hostname", tmp_path / "NOTICE.txt")
    with pytest.raises(PunaError, match="leaves its folder"):
        read_texts(tmp_path)


def test_the_page_lists_the_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "licences.md").read_text(encoding="utf-8")
    assert f"version {table_version()}" in page
    for facts in known_licences():
        row = next(
            (line for line in page.splitlines() if line.startswith("| `") and f"| {facts.title} |" in line), None
        )
        assert row is not None and all(f"`{identifier}`" in row for identifier in facts.ids), facts.title
        assert f"| {facts.date} | {len(facts.obligations)} |" in row, facts.title
