"""Who stems from whom, by what evidence: parents, children, the tree, and its drawing.

Comes in: models with the parents that their results name. Goes out: entries, a forest of nodes, SVG. Must never happen: an edge that
nobody stated, an unknown descent shown as none, or a circle that never ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from puna import svg
from puna.board.data import Row
from puna.judge.measured import Parent
from puna.words import brief, cells


@dataclass(frozen=True)
class ParentEntry:
    """A parent as a child's results name it, and the model of this board that it is, where it is one."""

    name: str
    relation: str
    evidence: str
    digest: str | None
    model: int | None


@dataclass
class Node:
    """A place in the list. `again`: its children stand elsewhere already."""

    name: str
    model: int | None
    digest: str = ""  # of a parent that is not on the board
    how: str = ""
    evidence: str = ""
    child: bool = False  # it stands under a parent
    also: list[str] = field(default_factory=list)  # its other parents
    again: bool = False
    children: list["Node"] = field(default_factory=list)


def parents_of(models: Sequence[Row]) -> list[list[ParentEntry]]:
    """[model] its parents. One is a model of this board if the digests are equal, or, where none is given, the names of just one."""
    by_digest: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for i, row in enumerate(models):
        if row.facts.digest:
            by_digest.setdefault(row.facts.digest, []).append(i)
        by_name.setdefault(row.facts.name, []).append(i)

    def found(parent: Parent, child: int) -> int | None:
        known = by_digest.get(parent.digest, []) if parent.digest else by_name.get(parent.name, [])
        own = [i for i in known if i != child]
        return own[0] if len(own) == 1 or (own and parent.digest) else None

    return [
        [ParentEntry(p.name, p.relation, p.evidence, p.digest, found(p, i)) for p in row.facts.parents]
        for i, row in enumerate(models)
    ]


def children_of(parents: Sequence[Sequence[ParentEntry]]) -> list[list[tuple[int, str]]]:
    """[model] (child, relation) of each."""
    found: list[list[tuple[int, str]]] = [[] for _ in parents]
    for child, entries in enumerate(parents):
        for entry in entries:
            if entry.model is not None:
                found[entry.model].append((child, entry.relation))
    return found


_Key = int | tuple[str, str]  # a model's number, or the name and digest of a parent that is not on the board


def _key(entry: ParentEntry) -> _Key:
    return entry.model if entry.model is not None else (entry.name, entry.digest or "")


def forest(models: Sequence[Row], parents: Sequence[Sequence[ParentEntry]]) -> tuple[list[Node], list[int]]:
    """(trees from roots down, models without any known parent or child). A child of two parents stands under its first."""
    names: dict[_Key, str] = {i: row.facts.name for i, row in enumerate(models)}
    below: dict[_Key, list[tuple[int, ParentEntry]]] = {}
    for child, entries in enumerate(parents):
        for entry in entries:
            names.setdefault(_key(entry), entry.name)
            below.setdefault(_key(entry), []).append((child, entry))
    seen: set[_Key] = set()

    def node(key: _Key, entry: ParentEntry | None, depth: int = 0) -> Node:
        made = Node(names[key], None, key[1]) if isinstance(key, tuple) else Node(names[key], key)
        if entry is not None and isinstance(key, int):
            made.child, made.how, made.evidence = True, entry.relation, entry.evidence
            made.also = [other.name for other in parents[key] if other is not entry]
        if key in seen or depth >= _DEEP:
            made.again = bool(below.get(key))
            return made
        seen.add(key)
        made.children = [node(child, how, depth + 1) for child, how in below.get(key, [])]
        return made

    roots = [key for key in below if not (isinstance(key, int) and parents[key])]
    trees = [node(key, None) for key in roots]
    trees += [node(key, None) for key in below if key not in seen]  # circles, which have no root
    alone = [i for i in range(len(models)) if not parents[i] and i not in below]
    return trees, alone


_DEEP = 60  # generations under one root
_WIDE, _HIGH, _ACROSS = 200, 60, 350  # of a box, of a row, from one generation to the next


def drawing(models: Sequence[Row], parents: Sequence[Sequence[ParentEntry]], name: str) -> Markup | None:
    """The family as boxes from left to right; None where no descent is known."""
    trees, _ = forest(models, parents)
    if not trees:
        return None
    spots: dict[_Key, tuple[float, float]] = {}
    shown: dict[_Key, Node] = {}
    edges: list[tuple[_Key, _Key, str, str]] = []
    row = 0

    def place(node: Node, depth: int) -> None:
        nonlocal row
        key: _Key = node.model if node.model is not None else (node.name, node.digest)
        if key in spots:
            return
        shown[key] = node
        start = row
        spots[key] = (0.0, 0.0)
        for child in node.children:
            place(child, depth + 1)
        if row == start:
            row += 1
        spots[key] = (8 + depth * _ACROSS, 8 + (start + row - 1) / 2 * _HIGH)

    for tree in trees:
        place(tree, 0)
    for child, entries in enumerate(parents):
        for entry in entries:
            parent = _key(entry)
            if parent in spots and child in spots:
                edges.append((parent, child, entry.relation, entry.evidence))
    body = [_edge(spots[a], spots[b], relation, bool(evidence)) for a, b, relation, evidence in edges]
    for key, (x, y) in spots.items():
        node = shown[key]
        box = svg.rect(x, y, _WIDE, 32, "family-box" if node.model is not None else "family-box absent")
        body.append(box + svg.label(x + 10, y + 21, _fitting(node.name, 26), "family-name"))
    width = max(x for x, _ in spots.values()) + _WIDE + 8
    told = "; ".join(f"{brief(_named(models, b), 40)} from {brief(_named(models, a), 40)}" for a, b, _, _ in edges)
    return svg.frame(name, int(width), 8 + row * _HIGH, "Family of the models", told, body)


def _named(models: Sequence[Row], key: _Key) -> str:
    return models[key].facts.name if isinstance(key, int) else key[0]


def _fitting(text: str, most: int) -> str:
    short = brief(text, most)
    while cells(short) > most and len(short) > 2:
        short = brief(text, len(short) - 1)
    return short


def _edge(start: tuple[float, float], end: tuple[float, float], relation: str, known: bool) -> str:
    """From a parent's right side to a child's left one, with an arrow; broken where no evidence is given.

    Over more than one generation it bows below the boxes between.
    """
    x1, y1, x2, y2 = start[0] + _WIDE, start[1] + 16, end[0], end[1] + 16
    class_ = "family-edge" if known else "family-edge unproved"
    if x2 - x1 <= _ACROSS:
        made = svg.line(x1, y1, x2 - 6, y2, class_)
        middle = (y1 + y2) / 2 - 5
    else:
        y1, y2 = y1 + 9, y2 + 9
        low = max(y1, y2) + 18
        made = svg.element("path", d=f"M{x1:.1f} {y1:.1f}C{x1 + 60:.1f} {low:.1f} {x1 + 60:.1f} {low:.1f} {x1 + 90:.1f} {low:.1f}"
                           f"H{x2 - 90:.1f}C{x2 - 60:.1f} {low:.1f} {x2 - 60:.1f} {y2:.1f} {x2 - 6:.1f} {y2:.1f}", fill="none", class_=class_)  # fmt: skip
        middle = low - 4
    made += svg.path([(x2, y2), (x2 - 8, y2 - 4), (x2 - 8, y2 + 4)], "family-arrow", closed=True)
    if relation:
        made += svg.label((x1 + x2) / 2, middle, _fitting(relation, 18), "family-relation", "middle")
    return made
