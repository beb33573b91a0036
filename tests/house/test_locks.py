"""The locks: complete, by digest, the same everywhere, and what the documents say of them."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLATFORMS = [
    {"sys_platform": system, "platform_machine": machine, "python_version": short, "python_full_version": f"{short}.1"}
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
    for short in ("3.11", "3.12", "3.13")
]


IMPORTED_AS = {"scikit-learn": "sklearn", "llama-cpp-python": "llama_cpp", "lm-eval": "lm_eval", "pyyaml": "yaml",
               "pyopenssl": "OpenSSL", "markdown-it-py": "markdown_it", "cyclonedx-python-lib": "cyclonedx"}  # fmt: skip
SOURCES_ONLY = {"sqlitedict", "word2number"}  # lm-eval asks for them and they have no wheel: docs/dependencies.md
ONLY_FILES = {"py3langid"}  # its model is read as a file; the package is never imported
FOR_ANOTHER = {"OpenSSL"}  # model-signing imports it and does not ask for it; ours only looks whether it is there


def entries(lock: Path) -> list[tuple[Requirement, list[str]]]:
    """(requirement, digests) of each entry."""
    found: list[tuple[Requirement, list[str]]] = []
    for line in lock.read_text().splitlines():
        text = line.strip().removesuffix("\\").strip()
        if line[:1].isalnum():
            found.append((Requirement(text), []))
        elif text.startswith("--hash="):
            found[-1][1].append(text.removeprefix("--hash="))
        else:
            assert text == "" or text.startswith("#"), f"{lock.name}: {line!r}"
    return found


def pins(*names: str, platform: dict[str, str]) -> dict[str, str]:
    """What these locks install on a platform: name -> version."""
    chosen: dict[str, str] = {}
    for name in names:
        for requirement, _ in entries(ROOT / "requirements" / f"{name}.txt"):
            if requirement.marker is None or requirement.marker.evaluate(platform):
                assert requirement.name not in chosen, f"{requirement.name} twice on {platform}"
                chosen[requirement.name] = str(requirement.specifier).removeprefix("==")
    return chosen


def direct(*extras: str) -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != "puna"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_entry_is_one_version_by_digest_and_names_no_place(lock: Path) -> None:
    found = entries(lock)
    assert found
    for requirement, digests in found:
        assert re.fullmatch(r"==[0-9][^,*]*", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert digests, requirement
        assert len(digests) == len(set(digests))
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)
    assert "://" not in lock.read_text()


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: "-".join(platform.values()))
@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_locks_hold_every_direct_dependency_in_range(platform: dict[str, str], build: str) -> None:
    chosen = pins("puna", f"torch-{build}", platform=platform)
    for requirement in direct("gate", "data", "judge", "serve", "openvino", "sign", "documents", "test"):
        assert requirement.specifier.contains(chosen[requirement.name].split("+")[0]), requirement
    if build == "cpu":
        assert not [name for name in chosen if name.startswith(("nvidia", "cuda", "triton"))]


def test_both_builds_of_torch_are_one_version() -> None:
    for platform in PLATFORMS:
        cpu, gpu = (pins(f"torch-{build}", platform=platform)["torch"] for build in ("cpu", "gpu"))
        assert cpu == (f"{gpu}+cpu" if platform["sys_platform"] == "linux" else gpu)
    by_build = [
        {str(r.marker): set(d) for r, d in entries(ROOT / "requirements" / f"torch-{b}.txt") if r.name == "torch"}
        for b in ("cpu", "gpu")
    ]
    assert by_build[0]['sys_platform == "darwin"'] <= by_build[1]["None"]


def test_development_lock_agrees_with_the_runtime_lock() -> None:
    for platform in PLATFORMS:
        chosen, base = pins("dev", platform=platform), pins("puna", platform=platform)
        for requirement in direct("dev"):
            if requirement.name in chosen:
                assert requirement.specifier.contains(chosen[requirement.name])
        assert {
            name: (chosen[name], base[name]) for name in chosen.keys() & base.keys() if chosen[name] != base[name]
        } == {}


def test_documented_versions_are_the_locked_ones() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    rows = {row[0]: row[1] for row in re.findall(r"^\| `([\w.-]+)` \| ([\w.]+) \|", text, re.MULTILINE)}
    linux = pins("puna", "torch-gpu", platform=PLATFORMS[0]) | pins("dev", "uv", platform=PLATFORMS[0])
    wanted = {
        requirement.name
        for requirement in direct(
            "gate", "data", "judge", "serve", "openvino", "formats", "sign", "documents", "test", "dev"
        )
    } | {
        "setuptools",
        "uv",
    }
    assert set(rows) == wanted
    assert {name: version for name, version in rows.items() if linux[name] != version} == {}


def test_declared_is_what_is_imported() -> None:
    """Every library that src imports is declared, and every declared one is imported: no guest, no idle hand."""
    imported: dict[str, str] = {}
    for path in (ROOT / "src" / "puna").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            imported |= {name.split(".")[0]: path.name for name in names}
    outside = {name: path for name, path in imported.items() if name not in sys.stdlib_module_names and name != "puna"}
    declared = (
        {
            IMPORTED_AS.get(r.name, r.name.replace("-", "_"))
            for r in direct("gate", "data", "judge", "serve", "openvino", "formats", "sign", "documents", "llamacpp")
        }
        - ONLY_FILES
        - FOR_ANOTHER
    )
    assert {name: path for name, path in outside.items() if name not in declared} == {}
    assert declared - set(outside) == set()


def _made_by_the_script() -> bool:
    return (Path(sys.prefix) / "puna-installed").exists()


@pytest.mark.skipif(not _made_by_the_script(), reason="not in the environment that ./puna makes")
def test_installed_is_what_is_locked() -> None:
    build = next(
        line.split()[1] for line in (Path(sys.prefix) / "puna-installed").read_text().splitlines() if "build" in line
    )
    chosen = pins("puna", f"torch-{build}", platform={})
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions(path=[_site()])}
    assert {name: version for name, version in chosen.items() if installed.get(name) != version} == {}
    assert set(installed) - set(chosen) <= {"pip", "setuptools", "uv"}
    said = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True).stdout.splitlines()
    missing = {
        f"lm-eval {metadata.version('lm-eval')} requires {name}, which is not installed." for name in SOURCES_ONLY
    }
    assert set(said) - missing - {"No broken requirements found."} == set()


def _site() -> str:
    import sysconfig

    return sysconfig.get_path("purelib")
