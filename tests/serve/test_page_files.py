"""The chat page as files and headers, without a browser: what it may load, that it says everything in both languages, and that no
script has a way from a text to markup, to code, or to another server."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import httpx2 as httpx
import pytest

import puna.serve

STATIC = Path(puna.serve.__file__).parent / "static"
FILES = sorted(STATIC.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\(|createContextualFragment|srcdoc|DOMParser|XMLHttpRequest"
    r"|WebSocket|EventSource|sendBeacon|\.style\b|cssText|importScripts|\bimport\(|setTimeout\(\s*[\"'`]|javascript:"
)
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:", "connect-src": "'self'",
    "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'", "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}  # fmt: skip


def words(language: str) -> dict[str, str]:
    text = (STATIC / f"words_{language}.js").read_text("utf-8")
    assert text.startswith("export default {") and text.endswith("};\n")
    pairs = json.loads(text.removeprefix("export default ").removesuffix(";\n"), object_pairs_hook=list)
    assert len(pairs) == len(dict(pairs)), "a key stands twice"
    return dict(pairs)


# ---- Headers ----


def policy(response: httpx.Response) -> dict[str, str]:
    parts = [part.strip() for part in response.headers["content-security-policy"].split(";")]
    return {part.partition(" ")[0]: part.partition(" ")[2] for part in parts}


def test_every_file_is_sent_with_the_strict_policy(server):
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:  # without the key: the page asks for it
        for address in ["/", *(f"/static/{path.name}" for path in FILES if path.name != "index.html")]:
            response = client.get(address)
            assert response.status_code == 200, address
            assert policy(response) == POLICY
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cross-origin-opener-policy"] == "same-origin"
            assert "set-cookie" not in response.headers
            head = client.head(address)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(response.content))


def test_types(client):
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    for path in FILES:
        if path.suffix in kinds:
            response = client.get(f"/static/{path.name}")
            assert response.headers["content-type"] == kinds[path.suffix]
            assert response.content == path.read_bytes()
    assert client.get("/").headers["content-type"] == "text/html; charset=utf-8"


def test_a_file_that_did_not_change_is_not_sent_again(client):
    first = client.get("/static/app.js")
    tag = first.headers["etag"]
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get("/static/app.js", headers={"If-None-Match": asked})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert policy(again) == POLICY
    assert client.get("/static/app.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/").headers["etag"] != tag
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name",
    [
        "index.html", "nothing.js", "..%2fpage.py", "%2e%2e%2fpage.py", "%252e%252e%252fpage.py", "..%5cpage.py", "app.js%00",
        "%2fetc%2fpasswd", "", "app.js/", "APP.JS", "__pycache__", "%ff",
    ],
)  # fmt: skip
def test_no_other_name_leads_to_a_file(client, name):
    response = client.get(f"/static/{name}")
    assert response.status_code == 404
    assert b"import" not in response.content and b"root:" not in response.content


# ---- The page ----


class Tags(HTMLParser):
    """Every tag with its attributes, and the text inside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self._last = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._last = tag

    def handle_data(self, data: str) -> None:
        if self._last in ("script", "style") and data.strip():
            self.inside.append(data)


@pytest.fixture(scope="module")
def page() -> Tags:
    tags = Tags()
    tags.feed((STATIC / "index.html").read_text("utf-8"))
    return tags


def test_the_page_holds_no_script_and_no_style_of_its_own(page):
    assert page.inside == []
    assert all(
        tag not in ("style", "base", "iframe", "object", "embed", "meta") or "http-equiv" not in attributes
        for tag, attributes in page.tags
    )
    attributes = {name for _, given in page.tags for name in given}
    assert not any(name.startswith("on") or name == "style" for name in attributes)
    for tag, given in page.tags:
        for name in ("src", "href"):
            if name in given and not (given[name] or "").startswith("#"):
                address = given[name] or ""
                assert address.startswith("/static/") and (STATIC / address.removeprefix("/static/")).is_file(), (
                    tag,
                    address,
                )


def test_every_control_has_a_name_and_every_id_is_one(page):
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    for tag, given in page.tags:
        if tag in ("select", "textarea", "input"):
            assert "data-label" in given, given
        if tag == "img":
            assert "alt" in given


def test_scripts_name_only_elements_that_are_there(page):
    ids = {given["id"] for _, given in page.tags if "id" in given}
    made = {"key-field", "single-keys"}  # by the dialogs
    for path in SCRIPTS:
        assert set(re.findall(r"byId\(\"([\w-]+)\"\)", path.read_text("utf-8"))) <= ids | made, path.name


# ---- The scripts ----


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_way_from_text_to_markup_and_none_to_another_server(path):
    text = path.read_text("utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
    assert FORBIDDEN.findall(code) == []
    addresses = set(re.findall(r"(?:https?:|[\"'`(])//[\w.-]+\.\w+[^\s\"')]*", code)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    assert "@import" not in text and "url(" not in text and "\t" not in text
    assert len(text.splitlines()) <= 400
    assert path.suffix in (".html", ".css", ".js", ".svg")


def test_only_one_file_speaks_with_the_server():
    speak = {path.name for path in SCRIPTS if re.search(r"\bfetch\(", path.read_text("utf-8"))}
    assert speak == {"server.js"}
    paths = set(re.findall(r"[\"'`](/[\w/]+)", (STATIC / "server.js").read_text("utf-8")))
    assert paths == {"/v1/models", "/v1/chat/completions", "/v1/completions", "/about/", "/tokenize"}


def test_imports_lead_to_files_and_every_file_is_used(page):
    found = {(given.get("src") or given.get("href") or "").removeprefix("/static/") for _, given in page.tags} | {
        "index.html"
    }
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        for name, module in re.findall(r"^import (?:\* as \w+|\w+|\{[^}]*\})( from) \"(.*)\";$", text, re.MULTILINE):
            assert name and module.startswith("./") and (STATIC / module[2:]).is_file(), (path.name, module)
            found.add(module[2:])
        for names, module in re.findall(r"^import \{([^}]*)\} from \"\./(.*)\";$", text, re.MULTILINE):
            there = (STATIC / module).read_text("utf-8")
            for name in names.split(","):
                assert re.search(rf"export (?:const|class|async function\*?|function\*?) {name.strip()}\b", there), (
                    path.name,
                    name,
                )
                assert len(re.findall(rf"\b{name.strip()}\b", text)) > 1, (
                    f"{path.name} imports {name} and does not use it"
                )
    assert {path.name for path in FILES} == {name for name in found if name and not name.startswith("#")}


# ---- The words ----


def test_every_text_is_there_in_both_languages():
    english, chinese = words("en"), words("zh")
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[key])), key
        assert bool(text) == bool(chinese[key]), key
    same = {"version", "top_p", "top_k", "min_p", "score_n", "other_language", "other_language_label", "end_stop"}
    for key, text in chinese.items():
        if key not in same:
            assert re.search(r"[\u4e00-\u9fff]", text), f"{key} is not Chinese: {text}"
            assert not re.search(r"[\u4e00-\u9fff][,;:?!]", text), f"{key} has an English mark after a Chinese letter"
    assert not any(
        re.search(r"[\u4e00-\u9fff]", text) for key, text in english.items() if not key.startswith("other_language")
    )


def test_every_text_is_used_and_every_text_that_is_used_is_there(page):
    english = words("en")
    given = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("data-say", "data-label", "data-hint")
        if name in attributes
    ]
    code = "\n".join(path.read_text("utf-8") for path in SCRIPTS if not path.name.startswith("words_"))
    asked = set(re.findall(r"\bsay\(\s*\"([\w.]+)\"", code)) | set(given)
    assert asked <= set(english), asked - set(english)
    # What a script puts together: say(`end_${finish}`), say(text ? "a" : "b"), tables of names.
    quoted = set(re.findall(r"\"([\w.]+)\"", code))
    stems = set(re.findall(r"`(\w*)\$\{[\w.()]+\}(\w*)`", code))
    built = {
        key for key in english for start, end in stems if (start or end) and key.startswith(start) and key.endswith(end)
    }
    unused = set(english) - asked - quoted - built - {f"{key}.one" for key in english}
    assert unused == set()


def test_the_page_says_the_same_before_its_scripts_run(page):
    """The English texts that stand in the page are those of the table: nothing changes under the reader's eyes."""
    text, english = (STATIC / "index.html").read_text("utf-8"), words("en")
    for key, said in re.findall(r"data-say=\"(\w+)\">([^<]*)<", text):
        assert said == english[key]
    assert f"<title>{english['page']}</title>" in text


def test_the_page_belongs_to_the_package():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    for path in FILES:
        assert f'"**/*{path.suffix}"' in project


def test_the_card_knows_every_name_that_the_server_gives():
    """Names that recur are said in the reader's language; one that the page does not know would stay English."""
    from puna.lineage.verdict import LAYERS, Verdict
    from puna.serve import about

    table = (STATIC / "about_panel.js").read_text("utf-8").partition("NAMES = {")[2].partition("};")[0]
    known = set(re.findall(r'"([^"]+)": "\w+"', table))
    source = Path(about.__file__).read_text("utf-8")
    facts = set(re.findall(r"^        \(\"([\w -]+)\", ", source, re.MULTILINE)) | {"These weights"}
    assert len(facts) >= 8 and "These weights" in source
    assert {*facts, *about._TITLES.values(), *LAYERS, *get_args(Verdict), "base", "chat"} <= known
