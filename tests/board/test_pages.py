"""The pages as files: whole, still, the same each time; strangers' text stays text; every number has its command."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from board_sample import CHINESE, EVIL, MODELS, PUBLISHED, measurement, measurements

from puna.board import build_board
from puna.board.filling import POLICY
from puna.board.views import quoted
from puna.called import PUNA
from puna.errors import PunaError
from puna.judge.store.store import Store

ALLOWED_TAGS = {
    "html", "head", "meta", "title", "link", "script", "noscript", "body", "a", "header", "p", "nav", "ul", "ol", "li", "main", "footer", "h1", "h2",
    "h3", "h4", "form", "fieldset", "legend", "button", "label", "input", "select", "option", "div", "table", "caption", "thead", "tbody", "tr",
    "th", "td", "b", "span", "bdi", "code", "pre", "dl", "dt", "dd", "details", "summary", "section", "article", "figure", "figcaption", "svg",
    "g", "path", "rect", "line", "circle", "text", "desc",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.inline = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "link", "input", "path", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> ends <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.inline += data
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def pages(sample_site) -> dict[str, Page]:
    return {path.relative_to(sample_site).as_posix(): Page(path) for path in sorted(sample_site.rglob("*.html"))}


def test_the_pages_are_there(pages):
    assert {name for name in pages if "/" not in name} == {"index.html", "compare.html", "family.html", "about.html"}
    assert (
        sum(name.startswith("models/") for name in pages) == 5 and sum(name.startswith("tasks/") for name in pages) == 6
    )


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(pages):
    for name, page in pages.items():
        assert page.open == [] and page.inline == "", name
        policies = [
            a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policies == [POLICY], name
        for tag, attributes in page.tags:
            assert tag in ALLOWED_TAGS, f"{name}: <{tag}>"
            assert not [key for key in attributes if key.startswith("on") or key == "style"], name
            for key in ("href", "src"):
                value = attributes.get(key)
                assert value is None or value == "data:," or not urlsplit(value).scheme, f"{name}: {value}"


def test_every_link_leads_somewhere(pages, sample_site):
    seen = 0
    for name, page in pages.items():
        for _, attributes in page.tags:
            value = attributes.get("href") or attributes.get("src")
            if not value or value == "data:,":
                continue
            address = urlsplit(value)
            target = (
                ((sample_site / name).parent / unquote(address.path)).resolve() if address.path else sample_site / name
            )
            assert target.is_file(), f"{name}: {value}"
            relative = target.relative_to(sample_site.resolve() if address.path else sample_site).as_posix()
            if address.fragment and relative != "compare.html":
                assert address.fragment in pages[relative].ids, f"{name}: {value}"
            seen += 1
        assert len(page.ids) == len(set(page.ids)), name
    assert seen > 300


def test_strangers_text_is_text(pages, sample_site):
    assert pages["index.html"].text.count('<script>alert("1")') >= 2
    evil = next(name for name in pages if name.startswith("models/") and "script" in name)
    assert EVIL in pages[evil].text and "<b>bold</b>" in pages[evil].text and "<i>none</i>" in pages[evil].text
    for path in sample_site.rglob("*.js"):
        text = path.read_text("utf-8")
        if path.parent.name != "static":
            assert "<" not in text and "\u2028" not in text, path
    for path in sample_site.rglob("*.html"):
        assert "\u202e" not in path.read_text("utf-8")


def test_chinese_says_that_it_is(pages, sample_site):
    page = (sample_site / "index.html").read_text("utf-8")
    assert f'<bdi lang="zh">{CHINESE}</bdi>' in page and '<h1 lang="zh">' in page
    assert "问题以中文给出" in pages["tasks/cmmlu.html"].text and "说明见账本" in pages["family.html"].text


def test_every_number_shows_its_command(pages, sample_site):
    for one in measurements():
        slug = next(
            name
            for name in pages
            if name.startswith("models/") and one.model.name in pages[name].text.split("Facts")[0]
        )
        assert one.command in pages[slug].text
    index = (sample_site / "index.html").read_text("utf-8")
    assert index.count('title="puna judge &#39;models/') == 22  # 24 cells, one failed, one never run
    own = next(page for name, page in pages.items() if name == "models/stories260k.html")
    assert own.text.count("puna judge --reproduce ") == 6


def test_the_table_says_all_of_a_model(pages, sample_results):
    text = pages["index.html"].text
    for one in sample_results:
        if one.summary.score is not None and one.task.unit == "share":
            assert f"{100 * one.summary.score:.1f}" in text
    for said in (
        "failed the logits are not numbers (NaN) <b>from item 3 on</b>", "5 cut", "10\u202f% seen", "published", "n unknown", "n 120 in 30 clusters", "not run",
        "chance 25.0", "over stories260K , 4 tasks", "parent not on the board", "no parent known", "(no evidence given)", "2.90e13", "12.0\u202fM",
        "not looked for", "12 of 120 items", "results/x.json", "was changed <b>by hand</b>", "its ledger says so",
    ):  # fmt: skip
        assert " ".join(said.split()) in text, said


def test_published_scores_are_marked_with_their_source(pages):
    text = pages["models/yi-34b.html"].text
    assert text.count("items unknown: compared unpaired") == len(PUBLISHED)
    assert "Press <b>report</b>, 6 November 2023" in text and "https://example.invalid/yi" in text
    assert "--reproduce" not in text and "All scores were published by others" in text


def test_contamination_stands_beside_the_score(pages):
    text = pages["models/grown-400k.html"].text
    assert (
        "12 of 120 items stand in the model’s training text" in text
        and "On the clean ones" in text
        and "Dirty less clean" in text
    )
    assert "not looked for" in pages["tasks/hellaswag.html"].text


def test_a_task_says_how_it_was_asked_and_what_would_separate_neighbours(pages):
    text = pages["tasks/arc-challenge.html"].text
    for said in (
        "60 of 1172 items",
        "CC0-1.0",
        "guessing gives 25.0",
        "arc_challenge-prompts",
        "would need",
        "items",
        "An example",
        "McNemar",
    ):
        assert said in text, said
    assert "whale <b>blue</b>" in text
    assert "law" in pages["tasks/mmlu.html"].text and "maths" in pages["tasks/mmlu.html"].text
    assert "less is better" in pages["tasks/text.html"].text


def test_the_family_page_says_unknown(pages):
    text = pages["family.html"].text
    assert "unheard-of <b>base</b> not on this board" in text and "That is no proof of independence" in text


def test_equal_results_give_equal_bytes(sample_results, sample_site, tmp_path):
    # A page's paths of results are those of the store: the same store, read again, in another order.
    again = tmp_path / "again"
    build_board(
        sample_results[::-1],
        again,
        title="Sample board 样板",
        refused=[("results/x.json", "was changed <b>by hand</b>")],
    )
    for path in (path for path in sample_site.rglob("*") if path.is_file()):
        assert (again / path.relative_to(sample_site)).read_bytes() == path.read_bytes(), path
    assert sum(path.is_file() for path in again.rglob("*")) == sum(path.is_file() for path in sample_site.rglob("*"))


def test_a_board_of_one_model_and_one_of_failures_only(tmp_path):
    store = Store(tmp_path / "one")
    store.add(measurement(0, 0), now=1)
    report = build_board(store.results(), tmp_path / "board")
    assert (report.models, report.tasks, report.results, report.failed) == (1, 1, 1, 0)
    assert "One model is ranked" in Page(report.index).text
    store = Store(tmp_path / "none")
    store.add(measurement(0, 0).model_copy(update={"items": (), "failed": "no memory"}), now=1)
    store.add(measurement(1, 5), now=1)  # bits per byte only
    report = build_board(store.results(), tmp_path / "board")
    assert report.failed == 1
    text = Page(report.index).text
    assert "No model has a score on a task that can be averaged" in text and "no memory" in text


def test_no_result_is_said(tmp_path):
    with pytest.raises(PunaError, match="no result to show"):
        build_board([], tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_seeds_of_one_recipe_are_shown_together(tmp_path):
    store = Store(tmp_path / "store")
    for seed in (1, 2, 3):
        one = measurement(seed - 1, 0)
        model = MODELS[0].model_copy(
            update={"name": f"seed {seed}", "digest": str(seed) * 64, "recipe": "r" * 64, "seed": seed}
        )
        store.add(one.model_copy(update={"model": model}), now=1)
    build_board(store.results(), tmp_path / "board")
    text = Page(tmp_path / "board/tasks/arc-challenge.html").text
    assert "standard deviation between the 3 seeds" in text
    assert "Seeds of one recipe: seed 2 , seed 3" in Page(tmp_path / "board/models/seed-1.html").text


def test_words_of_a_command_line():
    assert [quoted(word) for word in ("a/b.json", "a b", "it's", "", "$(x)")] == [
        "a/b.json",
        "'a b'",
        "'it'\\''s'",
        "''",
        "'$(x)'",
    ]


def test_no_page_names_a_time_that_is_not_in_the_results(sample_site):
    for path in sample_site.rglob("*.html"):
        found = re.findall(r"20\d\d-\d\d-\d\d", path.read_text("utf-8"))
        assert set(found) <= {"2023-11-06"}, path


def test_the_command_that_reproduces_finds_its_result(sample_site, sample_results, pages, tmp_path, monkeypatch):
    text = pages["models/stories260k.html"].text
    found = re.findall(re.escape(PUNA) + r" judge --reproduce ([0-9a-f-]+)(?: --store (\S+))?", text)
    store = Store(sample_results[0].path.parents[4])
    own = {one.id for one in sample_results if one.model.name == "stories260K"}
    assert len(found) == 6 and {store.get(short).id for short, _ in found} == own
    assert all(8 <= len(short) < 36 for short, _ in found)
    assert str(store.folder) not in text  # the place on this disk is nobody's business
    monkeypatch.chdir(tmp_path)
    for name, option in (("results", ""), ("my results", "'my results'")):
        kept = Store(Path(name))
        kept.add(measurement(0, 0), now=1)
        build_board(kept.results(), tmp_path / f"board of {name}")
        page = Page(tmp_path / f"board of {name}" / "models/stories260k.html").text
        short, said = re.search(r"judge --reproduce ([0-9a-f-]+)(?: --store ('[^']+'))?", page).groups()
        assert kept.get(short).id == kept.results()[0].id and (said or "") == option


def test_notes_are_shown_where_the_numbers_stand(tmp_path):
    store = Store(tmp_path / "store")
    one = measurement(0, 0)
    model = one.model.model_copy(update={"notes": ("Its ledger is <b>not</b> believed.",)})
    store.add(one.model_copy(update={"model": model}), now=1)
    store.add(measurement(1, 0), now=1)
    build_board(store.results(), tmp_path / "board")
    index = Page(tmp_path / "board/index.html")
    assert "Its ledger is <b>not</b> believed." in index.text and "ARC-Challenge : 60 of 1172 items" in index.text
    assert any(tag == "a" and given.get("href") == "#note-arc-challenge" for tag, given in index.tags)
    assert "Its ledger is <b>not</b> believed." in Page(tmp_path / "board/models/stories260k.html").text
    task = Page(tmp_path / "board/tasks/arc-challenge.html").text
    assert "Smallest difference that these items show" in task


def test_how_the_number_of_items_is_known_is_shown(pages):
    assert "1,172 (the data set's size)" in pages["models/yi-34b.html"].text.replace("\u202f", ",")


def test_what_was_found_in_part_is_not_called_clean(tmp_path):
    store = Store(tmp_path / "store")
    one = measurement(0, 0)
    items = tuple(item.model_copy(update={"dirty": 0.4 if k < 7 else 0.0}) for k, item in enumerate(one.items))
    store.add(one.model_copy(update={"items": items}), now=1)
    clean = measurement(1, 0)
    items = tuple(item.model_copy(update={"dirty": 0.0}) for item in clean.items)
    store.add(clean.model_copy(update={"items": items}), now=1)
    build_board(store.results(), tmp_path / "board")
    touched = Page(tmp_path / "board/models/stories260k.html").text
    assert "None of 120 items stands as good as whole" in touched and "7 in part." in touched
    assert "was found in" not in touched
    assert (
        "None of 120 items was found in the model’s training text, not even in part."
        in Page(tmp_path / "board/models/grown-400k.html").text
    )
    index = Page(tmp_path / "board/index.html").text
    assert "none of 120 items as good as whole; 7 in part" in index and "none of 120 items, not even in part" in index


def test_a_quiz_is_always_a_chat(tmp_path):
    store = Store(tmp_path / "store")
    one = measurement(0, 0)
    store.add(one.model_copy(update={"task": one.task.model_copy(update={"kind": "quiz"})}), now=1)
    build_board(store.results(), tmp_path / "board")
    assert "in the model’s chat format" in Page(tmp_path / "board/models/stories260k.html").text
    assert '"kind":"quiz"' in (tmp_path / "board/data/board.js").read_text().replace(": ", ":")


def test_an_unknown_chance_level_is_said(tmp_path):
    store = Store(tmp_path / "store")
    one = measurement(0, 0)
    store.add(one.model_copy(update={"task": one.task.model_copy(update={"chance": None})}), now=1)
    build_board(store.results(), tmp_path / "board")
    assert "chance taken off not known" in Page(tmp_path / "board/models/stories260k.html").text
    assert "guessing gives not known" in Page(tmp_path / "board/tasks/arc-challenge.html").text
