"""The plan of the house, read from the imports: who may know whom, what is never loaded, what is never written."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "puna"
MAX_LINES = 400

FLOORS = [
    {"recipe", "ledger"},
    {"model", "tokens", "corpus"},
    {"train", "engine"},
    {"judge", "lineage"},
    {"board", "report", "serve"},
    {"build"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
FREE_OF_TORCH = {"recipe", "ledger", "corpus", "board"}
ENTRANCE = "__main__"  # calls cli and nothing else

BY_NAME = {"importlib.import_module", "import_module", "__import__"}
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {("torch", "load"), ("torch", "save"), ("yaml", "load"), ("os", "system"), ("os", "popen")}
UNSAFE_FLAGS = {"shell", "allow_pickle", "trust_remote_code"}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module under the package's folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted target) of every import of a module, inside functions and under TYPE_CHECKING too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def room_of(target: str) -> str | None:
    """The room that a dotted name is in; None outside the package, "" on the ground floor."""
    parts = target.split(".")
    if parts[0] != "puna":
        return None
    if len(parts) == 1:
        return ""
    return parts[1] if parts[1] in FLOOR or parts[1] == ENTRANCE else ""


def forbidden_imports(package: Path) -> list[str]:
    """Every import that runs upwards, or sideways into another room of the same floor."""
    wrong = []
    for name, path in modules(package).items():
        own = room_of(name) or ""
        if own == ENTRANCE:
            continue
        for line, target in imports(name, path):
            other = room_of(target)
            if other and other != own and FLOOR.get(other, 99) >= FLOOR.get(own, 0):
                wrong.append(f"{path.relative_to(package)}:{line}: {own or 'ground floor'} imports {target}")
    return wrong


def reached(package: Path, start: str) -> dict[str, str]:
    """Everything a module imports, through modules of the package: target -> the module that imports it."""
    known, seen, todo, found = modules(package), set(), [start], {}
    while todo:
        name = todo.pop()
        if name in seen or name not in known:
            continue
        seen.add(name)
        for _, target in imports(name, known[name]):
            found.setdefault(target, name)
            parts = target.split(".")
            todo += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return found


def unsafe_code(path: Path) -> list[str]:
    """What DESIGN's rule 3 and the record of others' accidents forbid: pickle, eval, shells, remote code."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            wrong += [
                f"{path.name}:{node.lineno}: imports {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES
            ]
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function in ("eval", "exec") or tuple(function.rsplit(".", 1)) in UNSAFE_CALLS:
                wrong.append(f"{path.name}:{node.lineno}: calls {function}")
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in UNSAFE_FLAGS and not off:
                    wrong.append(f"{path.name}:{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
    return wrong


def test_no_import_runs_upwards_or_sideways() -> None:
    assert forbidden_imports(PACKAGE) == []


def test_every_room_stands_on_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(FLOOR), f"rooms that DESIGN.md does not know: {rooms - set(FLOOR)}"
    assert len(rooms) >= 10


@pytest.mark.parametrize("room", sorted(FREE_OF_TORCH))
def test_rooms_without_torch(room: str) -> None:
    for name in modules(PACKAGE):
        if name.split(".")[1:2] == [room]:
            heavy = {target: via for target, via in reached(PACKAGE, name).items() if target.split(".")[0] == "torch"}
            assert heavy == {}, f"{name} reaches torch"


def test_rooms_without_torch_when_really_imported() -> None:
    names = [name for name in modules(PACKAGE) if name.split(".")[1:2] and name.split(".")[1] in FREE_OF_TORCH]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=_environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_no_file_over_400_lines() -> None:
    files = [path for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 20
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_nothing_unsafe_is_called() -> None:
    assert [found for path in sorted(PACKAGE.rglob("*.py")) for found in unsafe_code(path)] == []


def test_the_checks_can_fail(tmp_path: Path) -> None:
    package = tmp_path / "puna"
    for folder in ("corpus", "model", "recipe", "cli"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "files.py").write_text("from puna.recipe import schema\n")
    (package / "corpus" / "up.py").write_text("def f():\n    from puna import cli\n")
    (package / "corpus" / "side.py").write_text("from ..model import decoder\n")
    (package / "corpus" / "down.py").write_text(
        "import puna.recipe\nfrom puna.recipe import schema\nfrom . import up\n"
    )
    (package / "recipe" / "deep.py").write_text("from puna.recipe import heavy\n")
    (package / "recipe" / "heavy.py").write_text("import torch.nn\n")
    wrong = forbidden_imports(package)
    assert len(wrong) == 3
    assert any(line.startswith("corpus/up.py:2") for line in wrong)
    assert any(line.startswith("corpus/side.py:1") for line in wrong)
    assert any(line.startswith("files.py:1") for line in wrong)
    assert "torch.nn" in reached(package, "puna.recipe.deep")
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import pickle\neval('1')\nrun(x, shell=True)\ntorch.load(p)\nmodel.eval()\nload(p, trust_remote_code=False)\n"
    )
    assert [line.split(":")[1] for line in unsafe_code(bad)] == ["1", "2", "3", "4"]


def _environment() -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT / "src"),
        "PATH": "",
        "DO_NOT_TRACK": "1",
        "DAFT_ANALYTICS_ENABLED": "0",
        "HOME": "/nonexistent",
    }
