"""Parents, children and the tree: what is stated is shown, what is not known is not made up, circles end."""

from puna.board.data import Row
from puna.board.family import Node, children_of, drawing, forest, parents_of
from puna.judge.measured import ModelFacts, Parent


def rows(*models: tuple[str, str | None, tuple[Parent, ...]]) -> list[Row]:
    return [
        Row(name.lower(), ModelFacts(name=name, digest=digest, parents=parents), False)
        for name, digest, parents in models
    ]


def flat(nodes: list[Node], depth: int = 0) -> list[tuple[int, str]]:
    return [pair for node in nodes for pair in [(depth, node.name), *flat(node.children, depth + 1)]]


def test_a_digest_finds_the_parent_and_a_wrong_one_does_not():
    models = rows(
        ("A", "1", ()),
        ("B", "2", (Parent(name="whatever", digest="1"),)),
        ("C", "3", (Parent(name="A", digest="9"),)),
        ("D", "4", (Parent(name="A"),)),
    )
    parents = parents_of(models)
    assert [[entry.model for entry in own] for own in parents] == [[], [0], [None], [0]]
    assert children_of(parents)[0] == [(1, ""), (3, "")]


def test_a_name_that_two_models_have_finds_neither():
    models = rows(("A", "1", ()), ("A", "2", ()), ("B", "3", (Parent(name="A"),)))
    assert parents_of(models)[2][0].model is None


def test_the_tree_shows_unknown_parents_two_parents_and_loners():
    models = rows(
        ("A", "1", ()), ("B", "2", (Parent(name="A", relation="grown"),)), ("C", "3", (Parent(name="B"), Parent(name="A", evidence="said"))),
        ("D", "4", (Parent(name="absent"),)), ("E", "5", ()),
    )  # fmt: skip
    parents = parents_of(models)
    trees, alone = forest(models, parents)
    assert flat(trees) == [(0, "A"), (1, "B"), (2, "C"), (1, "C"), (0, "absent"), (1, "D")]
    assert alone == [4]
    assert trees[0].children[1].also == ["B"] and trees[0].children[1].evidence == "said"
    drawn = str(drawing(models, parents, "x"))
    assert drawn.count("family-edge") == 4 and drawn.count("family-edge unproved") == 3 and drawn.count("absent") >= 1


def test_circles_and_long_lines_end():
    circle = rows(("A", "1", (Parent(name="B"),)), ("B", "2", (Parent(name="A"),)), ("C", "3", (Parent(name="C"),)))
    trees, alone = forest(circle, parents_of(circle))
    assert flat(trees) == [(0, "C"), (1, "C"), (0, "B"), (1, "A"), (2, "B")]
    assert alone == [] and drawing(circle, parents_of(circle), "x") is not None
    line = rows(*((f"m{i}", str(i), (Parent(name=f"m{i - 1}"),) if i else ()) for i in range(400)))
    assert max(depth for depth, _ in flat(forest(line, parents_of(line))[0])) <= 61


def test_no_family_no_drawing():
    models = rows(("A", "1", ()))
    assert drawing(models, parents_of(models), "x") is None
