"""From anyone's model to anyone's model: Hugging Face, GGUF and llama2.c, with proof that it is still the same one.

Comes in: a model of any kind that is read, and where the new one is to stand. Goes out: the new one, and the parity check's figures.
Must never happen: a file overwritten, a source touched, a model left behind that is half written or did not pass the check.

Everything is written into a temporary folder beside the target, opened again from there, checked, and only then renamed.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puna.build import parity
from puna.build.parity import ParityError, compare_weights, counted
from puna.engine import Engine
from puna.errors import PunaError
from puna.files import file_sha256, fsync_directory, read_json, write_json
from puna.memory import free_memory
from puna.model.formats import open_model, write_huggingface
from puna.model.weights import Weights
from puna.progress import QUIET, Progress
from puna.reading import find_inside
from puna.tokens import Tokenizer
from puna.tokens.formats import open_tokenizer

# Kinds of each form, the default first, and bits of a matrix's value ("stored": as the source has it).
KINDS: dict[str, dict[str, float]] = {
    "huggingface": {"stored": 32, "fp32": 32, "bf16": 16, "fp16": 16, "int8": 8.5, "int4": 4.5},
    "gguf": {"f16": 16, "f32": 32, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5},
    "llama2c": {"legacy": 32, "fp32": 32, "int8": 8.5},
}
NAMES = {"huggingface": "Hugging Face", "gguf": "GGUF", "llama2c": "llama2.c"}
SHARD = "4GB"
_VERSIONS = {"legacy": 0, "fp32": 1, "int8": 2}
_DTYPES = {
    "fp32": torch.float32,
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "f16": torch.float16,
}
_CALIBRATED = ("int4", "q4_0")
# Endings that a folder's name may be given by mistake for a file that is not written.
_FILES = re.compile(
    r"\.(safetensors|pt|pth|ckpt|pkl|pickle|onnx|model|json|ggml|h5|msgpack|tar|zip|gz|txt)$", re.IGNORECASE
)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_GENERATION = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "eos_token_id", "bos_token_id",
               "pad_token_id")  # fmt: skip
_TEXT_BYTES = 1 << 18  # of a calibration text or a text of the user's own, this much is read


@dataclass(frozen=True)
class _Job:
    """What is to be written where."""

    form: str
    kind: str
    target: Path
    shard_bytes: int


def convert(
    source: Path, target: Path, *, to: str | None = None, shard_size: str = SHARD, calibrate: Path | None = None,
    tokenizer: Path | None = None, adapter: Path | None = None, text: Path | None = None, progress: Progress = QUIET,
) -> dict[str, Any]:  # fmt: skip
    """Write the model at `source` as `target`: `x.gguf`, `x.bin` (llama2.c, its tokenizer.bin beside it), else a Hugging Face folder.

    `to`: the kind within the form (`KINDS`). `calibrate`: a text by which 4-bit kinds weigh their rounding. `tokenizer`: where the
    source has none beside it. `adapter`: a peft folder that is merged in. `text`: measured in bits per byte beside the fixed texts.

    Gives {"source", "target", "form", "kind", "parameters", "bytes", "weights", "parity", "readers", "notes", "seconds"}. Raises
    `PunaError` for what cannot be read or written, and its child `ParityError` where the new model is not the old one; then and on
    any other error nothing is left at `target`.
    """
    began = time.monotonic()
    source, target = Path(source), Path(target)
    job = _job(source, target, to, shard_size, calibrate)
    own = _text(text) if text is not None else None
    weights = open_model(source)
    tokens = _tokenizer(source, tokenizer, weights)
    if adapter is not None:
        from puna.model.adapter_files import merge_adapter

        weights = merge_adapter(weights, adapter)
    _require_room(job, weights)
    importance = _importance(weights, tokens, calibrate, progress) if calibrate is not None else None
    with _workplace(target) as work:
        made = work / target.name
        notes = _write(job, weights, tokens, made, importance, source, progress)
        written = open_model(made)
        report = {
            "source": str(source), "target": str(target), "form": job.form, "kind": job.kind,
            "parameters": weights.config.parameters, "bytes": {"before": _size(source), "after": _size(made)},
            "weights": compare_weights(weights, written, _DTYPES.get(job.kind), progress), "notes": notes,
        }  # fmt: skip
        _check(report, job, weights, tokens, made, own, progress)
        _put_in_place(work, made, target)
    return report | {"seconds": round(time.monotonic() - began, 2)}


def _job(source: Path, target: Path, to: str | None, shard_size: str, calibrate: Path | None) -> _Job:
    """What the arguments mean. Raises `PunaError` where they contradict each other, or the target is taken."""
    found = _FILES.search(target.name)
    if found:
        raise PunaError(f"files of the kind {found[0]} are not written", where=str(target),
                        mend="DEST is x.gguf, x.bin (llama2.c), or the name of a new folder (Hugging Face)")  # fmt: skip
    form = {".gguf": "gguf", ".bin": "llama2c"}.get(target.suffix.lower(), "huggingface")
    kinds = KINDS[form]
    kind = next(iter(kinds)) if to is None else to.lower()
    if kind not in kinds:
        raise PunaError(f"{NAMES[form]} has no kind {kind[:20]!r}", where="--to",
                        mend=f"kinds for {target.name[:80]}: {', '.join(name for name in kinds if name != 'stored')}")  # fmt: skip
    if calibrate is not None and kind not in _CALIBRATED:
        raise PunaError(
            "only 4-bit kinds are calibrated", where="--calibrate", mend=f"--to {' or --to '.join(_CALIBRATED)}"
        )
    if os.path.lexists(target):
        raise PunaError("exists already", where=str(target), mend="choose another name, or remove it")
    if not target.parent.is_dir():
        raise PunaError("there is no such folder", where=str(target.parent), mend="make it first")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise PunaError("lies inside the source, which stays as it is", where=str(target), mend="choose another place")
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]i?B)", shard_size.strip(), re.IGNORECASE)
    if not size or float(size[1]) <= 0:
        raise PunaError(f"{shard_size[:20]!r} is no size", where="--shard-size", mend="write it like 4GB or 500MB")
    return _Job(form, kind, target, int(float(size[1]) * _UNITS[size[2].upper()]))


def _tokenizer(source: Path, named: Path | None, weights: Weights) -> Tokenizer:
    try:
        tokens = open_tokenizer(named or source)
    except PunaError as error:
        if named is not None:
            raise
        raise PunaError(error.what, where=error.where, mend="name the model's tokenizer: --tokenizer PATH") from error
    if tokens.vocab_size > weights.config.vocab_size:
        raise PunaError(f"the tokenizer has {tokens.vocab_size:,} entries, the embedding {weights.config.vocab_size:,} rows",
                        where=str(named or source), mend="the two are not of one model")  # fmt: skip
    return tokens


def _text(path: Path) -> str:
    """The beginning of a UTF-8 text file. Raises `PunaError`."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(_TEXT_BYTES)
    except OSError as error:
        raise PunaError(f"cannot be read ({error.strerror})", where=str(path)) from error
    cut = len(data) - next((n for n in range(4) if n < len(data) and data[-1 - n] & 0xC0 != 0x80), 0) - 1
    data = data if len(data) < _TEXT_BYTES else data[:cut]  # not within a character
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PunaError(f"is not UTF-8 (byte {error.start})", where=str(path), mend="give a plain text file") from None
    if not found.strip():
        raise PunaError("holds no text", where=str(path))
    return found


def _require_room(job: _Job, weights: Weights) -> None:
    """Raise `PunaError` where the disk or the memory will not do, before anything is written."""
    config = weights.config
    bits = KINDS[job.form][job.kind]
    if job.kind == "stored":
        bits = 8 * weights.read("model.norm.weight").element_size()
    rest = config.parameters - config.matrix_parameters  # embeddings and norms are not packed
    disk = config.matrix_parameters * bits / 8 + rest * max(bits, 16) / 8
    free = shutil.disk_usage(job.target.parent).free
    if disk > free:
        raise PunaError(f"needs about {disk / 1e9:.1f} GB, and {free / 1e9:.1f} are free", where=str(job.target.parent))
    if torch.cuda.is_available():
        return  # the check runs there, and says itself where it does not fit
    memory = 4.4 * config.parameters
    if memory > free_memory():
        raise PunaError(f"the parity check needs about {memory / 2**30:.1f} GiB of memory for the model in fp32, and "
                        f"{free_memory() / 2**30:.1f} are free", mend="convert it on a machine with more memory")  # fmt: skip


def _importance(weights: Weights, tokens: Tokenizer, path: Path, progress: Progress) -> dict[str, Any]:
    """What each input of each matrix weighs on a text of the user's."""
    from puna.model.importance import input_importance

    engine = Engine(weights.decoder(), tokens, weights.config)
    ids, length = tokens.encode(_text(path)), min(engine.context, 512)
    start = engine.begin("")
    step = max(1, length - len(start))
    rows = [torch.tensor(start + ids[at : at + step]) for at in range(0, len(ids), step)]
    return input_importance(engine.model, _told(rows, progress, "measuring the calibration text"))


def _told(rows: list[Tensor], progress: Progress, title: str) -> Iterator[Tensor]:
    progress.start(title, len(rows), "rows")
    for number, row in enumerate(rows):
        yield row
        progress.update(number + 1)
    progress.finish()


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A new folder beside the target, gone at the end whatever happened."""
    work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(
    job: _Job,
    weights: Weights,
    tokens: Tokenizer,
    made: Path,
    importance: dict[str, Any] | None,
    source: Path,
    progress: Progress,
) -> list[str]:
    """Write the model with its tokenizer; lines worth telling come back."""
    if job.form == "gguf":
        from puna.model.formats.gguf_write import write_gguf
        from puna.tokens.formats.gguf import gguf_tokenizer_fields

        told = write_gguf(weights, made, kind=job.kind.upper(), tokenizer=gguf_tokenizer_fields(tokens), importance=importance,
                          progress=progress)  # fmt: skip
        unpacked = (
            [f"{len(told['fallbacks'])} matrices stand in F16: their rows are no multiple of 32"]
            if told["fallbacks"]
            else []
        )
        return [*told["notes"], *unpacked]
    told_weights = counted(weights, progress, f"writing {job.target.name}")
    if job.form == "llama2c":
        from puna.model.formats.llama2c_write import write_llama2c
        from puna.tokens.formats.llama2c import write_llama2c_tokenizer

        write_llama2c_tokenizer(tokens, made.parent / "tokenizer.bin")
        write_llama2c(told_weights, made, version=_VERSIONS[job.kind])
        progress.finish()
        return []
    if job.kind in ("int8", "int4"):
        from puna.model.formats.quantised_write import write_quantised

        write_quantised(told_weights, made, bits=int(job.kind[3:]), importance=importance, shard_bytes=job.shard_bytes)
    else:
        write_huggingface(told_weights, made, dtype=_DTYPES.get(job.kind), shard_bytes=job.shard_bytes)
    progress.finish()
    tokens.save(made, context=weights.config.max_position_embeddings)
    write_json(made / "generation_config.json", _generation(source, weights))
    return []


def _generation(source: Path, weights: Weights) -> dict[str, Any]:
    """generation_config.json: the special ids, and of the source's own file what says how to draw."""
    config = weights.config
    values: dict[str, Any] = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
                              "pad_token_id": config.pad_token_id}  # fmt: skip
    path = find_inside(source, "generation_config.json") if source.is_dir() else None
    if path is not None and path.stat().st_size < 1 << 16:
        try:
            found = read_json(path)
        except (ValueError, RecursionError) as error:
            raise PunaError("is not JSON", where=str(path)) from error
        for key in _GENERATION if isinstance(found, dict) else ():
            items = found.get(key) if isinstance(found.get(key), list) else [found.get(key)]
            if items and all(isinstance(item, int | float) for item in items):
                values[key] = found[key]
    return values


def _check(
    report: dict[str, Any],
    job: _Job,
    weights: Weights,
    tokens: Tokenizer,
    made: Path,
    own: str | None,
    progress: Progress,
) -> None:
    """The parity check; its figures go into `report`. Raises `ParityError` where it fails."""
    counts = report["weights"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = parity.read(Engine(weights.decoder(device=device), tokens, weights.config), own, progress, "before")
    engine = Engine.load(made, device)
    after = parity.read(engine, own, progress, "after")
    config = engine.config
    del engine  # the next reader needs its memory
    report["parity"] = parity.compare(before, after, exact=counts["equal"] == counts["tensors"])
    report["readers"] = _others(job, made, config, after)
    failures = [*report["parity"]["failures"],
                *(f"{row['program']}: {line}" for row in report["readers"] for line in row.get("failures", []))]  # fmt: skip
    if (job.kind == "stored" or job.kind in _DTYPES) and counts["as_rounded"] < counts["tensors"]:
        wrong = counts["tensors"] - counts["as_rounded"]
        failures.insert(0, f"{wrong} tensors are not what was to be written ({counts['tensor']} above all)")
    report["passed"] = not failures
    if failures:
        raise ParityError(
            "the parity check failed and nothing was kept: " + "; ".join(failures), where=str(job.target), report=report
        )


def _others(job: _Job, made: Path, config: Any, after: parity.Reading) -> list[dict[str, Any]]:
    """What other programs make of the new model; those that are not here are named with the reason."""
    from puna.build import other_readers as readers

    reader: Callable[[], dict[str, Any]]
    if job.form == "huggingface":
        name, missing = "transformers", readers.why_not_transformers(job.kind in ("int8", "int4"))
        reader = lambda: readers.by_transformers(made, config, after.sequences)  # noqa: E731
    elif job.form == "gguf":
        name, missing = "llama.cpp", readers.why_not_llama_cpp()
        reader = lambda: readers.by_llama_cpp(made, config, after.sequences)  # noqa: E731
    else:
        return []
    if missing is not None:
        return [{"program": name, "took_part": False, "why": missing}]
    try:
        found = reader()
    except Exception as error:  # whatever another program's loader raises means one thing: it does not read the model
        return [{"program": name, "took_part": True, "failures": [f"does not read it ({str(error)[:200]})"]}]
    # llama.cpp computes in the weights' own type: only with fp32 weights are its sums ours.
    close = job.form == "huggingface" or job.kind == "f32"
    return [{"program": found["program"], "took_part": True,
             **parity.compare_reader(after, found["logits"], found["ids"], close=close)}]  # fmt: skip


def _size(path: Path) -> int:
    """Bytes of a model: of its file, or of the files in its folder."""
    return (
        path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    )


def _put_in_place(work: Path, made: Path, target: Path) -> None:
    """Give the finished model its name. llama2.c's tokenizer.bin goes first; one that stands there already must be the same."""
    beside = work / "tokenizer.bin"
    place = target.parent / beside.name
    added = beside.is_file() and not os.path.lexists(place)
    if beside.is_file() and not added and file_sha256(place) != file_sha256(beside):
        raise PunaError("exists already and is another model's", where=str(place), mend="choose another folder")
    if os.path.lexists(target):
        raise PunaError("exists already", where=str(target), mend="choose another name, or remove it")
    if added:
        os.rename(beside, place)
    try:
        os.rename(made, target)
    except BaseException:
        if added:
            place.unlink()
        raise
    fsync_directory(target.parent)
