"""What a model's maker says of it: its licence and the models that it stems from, in the card's front matter or a GGUF file.

Comes in: a model's folder or file. Goes out: a `Card`. Must never happen: a card that unfolds, or makes anything but text and lists of it.

Hugging Face's keys: `license` (with `license_name` where that is "other"), `base_model`, `base_model_relation`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.gguf_header import read_gguf_header
from puna.reading import find_inside

FILE = "README.md"
_MAX_FRONT, _DEEPEST = 128 << 10, 32  # bytes; the longest known hold the results of a few hundred tasks
_MOST_PARENTS, _LONGEST = 32, 200
_RELATIONS = {"finetune": "fine-tuned", "adapter": "adapter", "merge": "merged", "quantized": "quantised"}


@dataclass(frozen=True)
class Card:
    """What a card says; "" or empty where it says nothing. `notes`: why it could not be read."""

    licence: str | None = None
    parents: tuple[str, ...] = ()
    relation: str = ""
    notes: tuple[str, ...] = ()


def read_card(folder: Path) -> Card:
    """The card of a model folder; an empty one where there is none. A card that cannot be read is told of in `notes`."""
    try:
        front = _front(folder)
    except PunaError as error:
        return Card(notes=(f"its model card cannot be read: {error.what[:120]}",))
    licence = _text(front.get("license"))
    if licence is None or licence == "other":
        licence = _text(front.get("license_name")) or licence
    bases = front.get("base_model")
    named = [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else []
    parents = tuple(dict.fromkeys(name for one in named[:_MOST_PARENTS] if (name := _text(one))))
    relation = _RELATIONS.get(_text(front.get("base_model_relation")) or "", "")
    return Card(None if licence in ("unknown", "unstated") else licence, parents, relation)


def card_of(path: Path) -> Card:
    """The card of a model wherever it lies: in its folder, in its GGUF file; an empty one where the form has no place for it."""
    if path.is_dir():
        return read_card(path)
    return read_gguf_card(path) if path.suffix.lower() == ".gguf" else Card()


def read_gguf_card(path: Path) -> Card:
    """What a GGUF file says of itself: `general.license`, and the names or repositories under `general.base_model`."""
    said = read_gguf_header(path).metadata
    count = said.get("general.base_model.count")
    named = []
    for number in range(min(count, _MOST_PARENTS) if type(count) is int else 0):
        repository = _text(said.get(f"general.base_model.{number}.repo_url"))
        named.append(repository or _text(said.get(f"general.base_model.{number}.name")))
    return Card(_text(said.get("general.license")), tuple(dict.fromkeys(name for name in named if name)))


def _front(folder: Path) -> dict[str, Any]:
    """The values between the two lines of dashes at the file's begin; none where there is no such part."""
    path = find_inside(folder, FILE)
    if path is None:
        return {}
    with open(path, "rb") as stream:
        text = stream.read(_MAX_FRONT).decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    front, line, _ = text[4:].partition("\n---")
    if not line:
        raise PunaError(f"its front matter does not end within {_MAX_FRONT >> 10} KiB", where=str(path))
    import yaml

    try:
        depth = 0
        for event in yaml.parse(front, Loader=yaml.SafeLoader):
            # A few lines that refer to each other unfold to gigabytes, and each bracket that is open slows the parser down.
            if isinstance(event, yaml.AliasEvent):
                raise PunaError("its front matter refers to parts of itself", where=str(path))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise PunaError("its front matter is nested too deep", where=str(path))
        values = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PunaError(f"its front matter is no YAML ({str(error)[:80]})", where=str(path)) from None
    return values if isinstance(values, dict) else {}


def _text(value: object) -> str | None:
    return value.strip()[:_LONGEST] or None if isinstance(value, str) else None
