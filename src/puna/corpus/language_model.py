"""The naive Bayes that decides among the languages of one script.

Comes in: short pieces of text, each with its script. Goes out: for each the likeliest language and its probability.
Must never happen: a model file read whose bytes nobody checked; code of the package run.

The model is the one that the package py3langid ships (A. Barbaresi, 2026; after Lui and Baldwin, "langid.py", ACL 2012;
BSD-3-Clause): counts of byte n-grams, found by an automaton. Its file is read only where its SHA-256 is the one below.
Whole batches are scored at once, which is several times as fast as the package's own walk over one text.
"""

import hashlib
import importlib.util
import io
import lzma
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.errors import PunaError

MODEL_SHA256 = "f4f4a2c3465ca1f081541037f9cac23021d68151c2f709c55ae5eedfca522963"  # py3langid 0.4.0, model.npz.xz

F32 = npt.NDArray[np.float32]

# What the model calls otherwise, and its labels that would take text away from a large neighbour or that rules decide.
_RENAMED = {"kik": "ki", "gug": "gn", "uzs": "uz", "zxx": "und"}
# "hr" stands for what Croatian, Bosnian and Serbian in Latin letters have in common.
_DROPPED = frozenset({"bs", "ext", "gcf", "gcr"})
# Which labels may win in which script; all others but those of scripts with one language are written in Latin letters.
_MODELLED = {
    "Cyrl": "ba be bg kk ky mk mn ru sr tg tt uk",
    "Arab": "ar ary arz fa ps sdh ug ur uzs",
    "Deva": "gom hi mr ne sa",
    "Beng": "as bn",
}
_ELSEWHERE = "am dz el grc gu hbo he hy ja ka km kn ko lo ml my or pa si ta te th wuu yue zh"
# Languages with tens of millions of pages on the web. The others carry a handicap: a short English heading is far
# likelier English than Nigerian Pidgin, however alike they look.
_COMMON = (
    "ar be bg bn ca cs da de el en es et fa fi fr he hi hr hu hy id it ja ka kk ko lt lv mk mr ne nl nn no pl "
    "pt ro ru sk sl sq sr sv sw ta te th tr uk ur uz vi zh"
)
_HANDICAP = 1.0  # in nats of the tempered score


@dataclass(frozen=True, slots=True)
class Model:
    """The automaton that finds n-grams in bytes, and what each n-gram says about each language."""

    rows: npt.NDArray[np.uint32]  # (distinct rows * 256,) the next state
    row_of: npt.NDArray[np.uint32]  # (states,) where a state's row begins
    feature_of: npt.NDArray[np.int32]  # (states,) the n-gram that ends here, -1 for none
    table: F32  # (n-grams, columns) log p(n-gram | column)
    bias: F32  # (columns,) log p(column)
    codes: list[str]  # of a column
    prior: dict[str, F32]  # of a script, per column: 0, the handicap, or minus infinity


@lru_cache(maxsize=1)
def shipped() -> Model:
    """The model in the installed package py3langid, read once. Raises PunaError as `load` does."""
    spec = importlib.util.find_spec("py3langid")  # finds the folder; runs nothing of the package
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise PunaError(
            "the package py3langid, which carries the language model, is missing", mend="install py3langid 0.4.0"
        )
    return load(Path(folders[0]) / "data" / "model.npz.xz")


def load(path: Path, digest: str = MODEL_SHA256) -> Model:
    """Read the language model. Raises PunaError where the file is missing or its SHA-256 is not `digest`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PunaError(f"the language model cannot be read ({error.strerror})", where=str(path)) from error
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise PunaError(f"is not the language model that was checked: its SHA-256 is {found}, not {digest}", where=str(path),
                        mend="install py3langid 0.4.0 again")  # fmt: skip
    with np.load(io.BytesIO(lzma.decompress(content)), allow_pickle=False) as data:
        everything: list[str] = data["classes"].tolist()
        one_per_script = set(_ELSEWHERE.split()) | _DROPPED
        common = set(_COMMON.split())
        kept = [k for k, label in enumerate(everything) if label not in one_per_script]
        labels = [everything[k] for k in kept]
        scripts = {script: set(names.split()) for script, names in _MODELLED.items()}
        scripts["Latn"] = set(labels).difference(*scripts.values())
        prior = {}
        for script, names in scripts.items():
            rare = [0.0 if label in common else -_HANDICAP for label in labels]
            prior[script] = np.array(
                [r if n in names else -np.inf for r, n in zip(rare, labels, strict=True)], np.float32
            )
        return Model(
            rows=data["nextmove"].astype(np.uint32),
            row_of=data["nextmove_row"].astype(np.uint32) << 8,
            feature_of=data["out_feat"].astype(np.int32),
            table=np.ascontiguousarray(data["ptc"][:, kept].astype(np.float32)),
            bias=data["pc"][kept],
            codes=[_RENAMED.get(label, label) for label in labels],
            prior=prior,
        )


def score(pieces: list[str], scripts: list[str], chunk: int = 256) -> list[tuple[str, float]]:
    """For each piece the likeliest language of its script and its probability.

    log p(c | text) = log p(c) + sum over n-grams f of log(1 + count of f) log p(f | c), divided by the square root of the
    bytes before the softmax, so that long texts are not all certain (py3langid's calibration).
    """
    answers: list[tuple[str, float]] = []
    for start in range(0, len(pieces), chunk):
        answers += _score_chunk(pieces[start : start + chunk], scripts[start : start + chunk])
    return answers


def _score_chunk(pieces: list[str], scripts: list[str]) -> list[tuple[str, float]]:
    model = shipped()
    lower = [(piece.lower() if piece.isupper() else piece).encode("utf-8", "replace") for piece in pieces]
    lengths = np.array([len(piece) for piece in lower])
    order = np.argsort(-lengths, kind="stable")  # long ones first: those still read are a prefix
    matrix = np.zeros((int(lengths.max()), len(lower)), np.uint8)
    for column, which in enumerate(order.tolist()):
        matrix[: lengths[which], column] = np.frombuffer(lower[which], np.uint8)
    found = np.full(matrix.shape, -1, np.int32)
    state = np.zeros(len(lower), np.uint32)
    sizes = -lengths[order]
    for step in range(len(matrix)):
        active = int(np.searchsorted(sizes, -step, side="left"))
        state = model.rows[model.row_of[state[:active]] + matrix[step, :active]]
        found[step, :active] = model.feature_of[state]
    steps, columns = np.nonzero(found >= 0)
    keys, counts = np.unique(columns * len(model.table) + found[steps, columns], return_counts=True)
    owners, features = np.divmod(keys, len(model.table))
    evidence = model.table[features] * np.log1p(counts.astype(np.float32))[:, None]
    edges = np.searchsorted(owners, np.arange(len(lower)))
    scores = np.zeros((len(lower), len(model.bias)), np.float32)
    filled = np.flatnonzero(np.diff(np.append(edges, len(owners))))
    scores[filled] = np.add.reduceat(evidence, edges[filled], axis=0) + model.bias if len(filled) else 0
    scores /= np.sqrt(lengths[order].astype(np.float32))[:, None]
    answers: list[tuple[str, float]] = [("und", 0.0)] * len(lower)
    for column, which in enumerate(order.tolist()):
        row = scores[column] + model.prior[scripts[which]]
        row = np.exp(row - row.max())
        row /= row.sum()
        sums: dict[str, float] = {}
        for index in np.flatnonzero(row > 0.01).tolist():
            sums[model.codes[index]] = sums.get(model.codes[index], 0.0) + float(row[index])
        best = min(sums, key=lambda code: (-sums[code], code))
        answers[which] = (best, sums[best])
    return answers
