"""From what a user calls a model to the folder or file that holds it.

In: a folder, a `.gguf` or llama2.c `.bin` file, the name of a local run, or `hf:org/name`. Out: what `open_model` opens.
Must never happen: a name reaches outside the folder of runs, or the network is asked.
"""

from pathlib import Path

from puna.called import typed
from puna.errors import PunaError
from puna.model.formats import model_file

_CONFIG = "config.json"
_RELEASE = "release"


def resolve_model(name: str, runs: Path = Path("runs")) -> Path:
    """The model that `name` means: a file, a folder, the release inside a run's folder, or runs/<name>/release.

    Raises PunaError that lists the runs there are, where it means none. A file is only named here; `open_model` refuses what is
    no model.
    """
    if name.startswith("hf:"):
        raise PunaError(
            "models on the Hugging Face hub are not yet available here",
            where=name,
            mend="download it by other means and give its folder",
        )
    given = Path(name).expanduser()
    run = Path(runs) / name
    named = name not in ("", ".", "..") and Path(name).name == name.rstrip("/")
    if given.is_file():
        return given
    # No name means no model, also where the current folder holds one.
    for folder in (*([given, given / _RELEASE] if name else []), *([run / _RELEASE] if named else [])):
        if folder.is_dir() and ((folder / _CONFIG).is_file() or model_file(folder) is not None):
            return folder
    if named and run.is_dir():
        raise PunaError(
            f"the run has no release yet ({run / _RELEASE} is missing)",
            where=name,
            mend=f"finish it with: {typed()} make",
        )
    if given.is_dir():
        raise PunaError(
            "the folder holds no model (no config.json, no release/config.json, no .gguf or .bin file)", where=name
        )
    raise PunaError(
        "no such model folder and no such run", where=name or "the model's name is empty", mend=_known(Path(runs))
    )


def _known(runs: Path) -> str:
    """What could have been meant: the runs that have a release."""
    found = sorted(path.parent.parent.name for path in runs.glob(f"*/{_RELEASE}/{_CONFIG}"))
    if not found:
        return f"there is no finished run here yet: {typed()} make builds one"
    return "runs here: " + ", ".join(found)
