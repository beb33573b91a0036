"""What a stranger's template may do, and what is refused."""

import pytest

from puna.judge.tasks.templates import MOST_LETTERS, Expression, Template, TemplateMistake

ROW = {"q": " <b>hi</b> & {{ x }} ", "cs": ["a", "b"], "n": None, "long": "abc" * 90_000, "gold": 1, "羊": "驼"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Question: {{ q.strip() }}\nAnswer:", "Question: <b>hi</b> & {{ x }}\nAnswer:"),
        ("{% for c in cs %}{{ 'ABC'[loop.index0] }}. {{ c }}\n{% endfor %}", "A. a\nB. b\n"),
        ("{{ cs | join(', ') }}{{ gold }}", "a, b1"),
        ("{{ '_a_' | replace('_', ' ') | trim | upper }}\n", "A\n"),
        ("{{ 'x' + '-' + cs[0] }}{% if gold == 1 %}!{% endif %}", "x-a!"),
        ("{{ 羊 }}", "驼"),
    ],
)
def test_a_template_gives_its_text(source: str, text: str) -> None:
    assert Template(source).render(ROW) == text


def test_an_expression_gives_a_value() -> None:
    assert Expression("cs").value(ROW) is ROW["cs"]
    assert Expression("'AB'.index(cs[0].upper())").value(ROW) == 0
    assert Expression("[cs[1], 'z']").value(ROW) == ["b", "z"]
    assert Expression("gold + 1").value(ROW) == 2


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}", "{{ q.__class__.__mro__ }}", "{{ ''['__class__'] }}", "{{ q | attr('__class__') }}",
        "{{ q.strip.__globals__ }}", "{{ q['strip'].__self__ }}", "{{ q.strip['__globals__'] }}", "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ namespace() }}", "{{ lipsum.__globals__ }}", "{{ range(9) }}",
        "{% import 'os' as os %}", "{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% macro m() %}{% endmacro %}", "{{ q() }}",
        "{% set a = q %}{{ a }}", "{% for a in cs recursive %}{{ loop(cs) }}{% endfor %}", "{{ '%s' % q }}", "{{ 'a'.format(q) }}",
        "{{ q.encode() }}", "{{ cs.append('c') }}", "{{ q | tojson }}", "{{ cs | map(attribute='__class__') | list }}",
    ],
)  # fmt: skip
def test_an_injection_is_refused(source: str) -> None:
    with pytest.raises(TemplateMistake):
        Template(source).render(ROW)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 9999999999 }}", "{{ 9 ** 9 ** 9 }}", "{{ 'a' | center(999999999) }}", "{{ '%0999999999d' | format(1) }}",
        "{{ 'a'.ljust(999999999) }}", "{{ long | replace('', long) }}", "{{ long | join(long) }}", "{{ long ~ long }}", "{{ [long] }}",
        "{% for a in long %}{% for b in long %}x{% endfor %}{% endfor %}", "{% for a in long %}{{ long }}{% endfor %}",
        "{{ " + " + ".join(["long"] * 60) + " }}", "{{ long" + " | trim" * 30 + " }}", "{{ q }}" * 5000,
    ],
)  # fmt: skip
def test_a_bomb_is_refused(source: str) -> None:
    with pytest.raises(TemplateMistake):
        Template(source).render(ROW)


def test_a_text_ends_at_its_bound() -> None:
    assert len(Template("{{ long }}" * 3).render(ROW)) == 810_000
    with pytest.raises(TemplateMistake, match=f"{MOST_LETTERS:,}"):
        Template("{{ long }}" * 4).render(ROW)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ cs", "unexpected end"), ("{{ cs }}", "a list"), ("{{ n }}", "nothing"), ("{{ missing }}", "'missing' is undefined"),
        ("{{ q.nothing }}", "no attribute"), ("{{ cs[7] }}", "7"), ("{{ cs | upper }}", "a list"), ("{{ q - 1 }}", "unsupported"),
    ],
)  # fmt: skip
def test_a_mistake_says_what(source: str, told: str) -> None:
    with pytest.raises(TemplateMistake, match=told):
        Template(source).render(ROW)


@pytest.mark.parametrize(
    "source", ["{{ cs }}", "cs) }} {{ (q", "a b", "missing", "cs.missing", "cs +", "q.__class__", "cs | list"]
)
def test_no_expression(source: str) -> None:
    with pytest.raises(TemplateMistake):
        Expression(source).value(ROW)


def test_loops_are_bounded() -> None:
    scan = Template("{% for c in text %}{{ text.find(c) }}{% endfor %}")
    assert scan.render({"text": "ab" * 500})
    for size, says in ((9000, "steps times characters of the row"), (20_000, "a loop of 20,000 steps")):
        with pytest.raises(TemplateMistake, match=says):
            scan.render({"text": "a" * size})
    several = Template("{% for c in a %}{{ b.find(c) }}{% endfor %}" * 3)
    with pytest.raises(TemplateMistake, match="steps times characters"):
        several.render({"a": "x" * 100, "b": "y" * 100_000})
    before = scan._work.all
    scan.render({"text": "a" * 2000})
    assert scan._work.all == before + 2000 * 2005  # the field's name and itself count too
    scan._work.all = 4_999_999_999
    with pytest.raises(TemplateMistake, match="over all rows"):
        scan.render({"text": "abc"})
    with pytest.raises(TemplateMistake, match="from its end"):
        Template("{{ a.rpartition(b)[0] }}").render({"a": "a" * 500_000, "b": "b" + "a" * 250_000})
    assert Template("{% for c in t %}{{ c }}{% else %}none{% endfor %}").render({"t": {}}) == "none"
