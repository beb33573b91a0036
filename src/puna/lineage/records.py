"""Comparisons kept beside the results of judging, so that the board can show them. No torch.

Comes in: a `Lineage`, or the store's folder. Goes out: one JSON file a pair of models, and the comparisons of a folder. Must never happen: a
file of a stranger's believed that is not of this form.
"""

from pathlib import Path

from pydantic import ValidationError

from puna.errors import PunaError
from puna.files import digest_of, write_json
from puna.lineage.verdict import Lineage
from puna.reading import read_object

FOLDER = "lineage"  # inside the store


def save(found: Lineage, store: Path) -> Path:
    """Write the comparison; an older one of the same two models is replaced. Raises `PunaError` where the folder cannot be written to."""
    folder = Path(store) / FOLDER
    key = digest_of([_key(found, "model"), _key(found, "reference")])[:16]
    path = folder / f"{key}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, found.as_json())
    except OSError as error:
        raise PunaError(f"cannot be written ({error.strerror})", where=str(path), mend="give another --store") from None
    return path


def load(store: Path, problems: list[PunaError] | None = None) -> list[Lineage]:
    """All comparisons of a store, by file name. What is not one goes to `problems`; without that list it is raised."""
    found = []
    for path in sorted((Path(store) / FOLDER).glob("*.json")):
        try:
            found.append(Lineage.model_validate(read_object(path.parent, path.name)))
        except ValidationError as error:
            first = error.errors()[0]
            problem = PunaError(
                f"is no comparison: {'.'.join(map(str, first['loc']))}: {first['msg']}", where=str(path)
            )
            if problems is None:
                raise problem from None
            problems.append(problem)
        except PunaError as error:
            if problems is None:
                raise
            problems.append(error)
    return found


def _key(found: Lineage, side: str) -> str:
    facts = found.model_facts if side == "model" else found.reference_facts
    return (facts and facts.digest) or getattr(found, side)
