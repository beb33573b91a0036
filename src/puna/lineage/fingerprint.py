"""A model in some tens of kilobytes: enough to see most kinship without its weights.

Comes in: an opened model. Goes out: a `Fingerprint`, JSON on disk, and `kinship` of two of them. Must never happen: a fingerprint that
says "independent": what it does not see, only the exact comparison may deny.

What is kept, and what it sees:
* a drawn part of the up-projections (gains folded) of up to 12 blocks, 48 hidden units by 24 columns each, and of the embedding, 48
  stream dimensions by the tokens below: the exact tests of `weights.places`, at reduced power. They see what keeps its place: renamed,
  rounded, noised, fine-tuned, continued, adapter merged, merged models, blocks doubled or dropped, experts made of one MLP.
* digests of the multiset of values of those matrices, rounded to bf16: they see exact copies whatever was renamed, reordered,
  transposed, or stored in fp32 as well as bf16.
* the cosines between the embeddings of 64 tokens, which no permutation or rotation of the stream changes: a likeness without a p-value,
  as strangers that learnt from like text agree too (0.88 to 0.91 for three small models of one text, 0.3 of two languages' text). It
  only sorts: what was turned, or cut in width, comes to the top with it.
The tokens are those with the smallest SHA-256 of their bytes, so that two vocabularies pick the same ones as far as they share them.

Not seen by a p-value: hidden units *and* stream reordered, both widths changed, more than 12 blocks of which none drawn has its
source among the drawn ones. Those come to light, if at all, by the likeness.
"""

import base64
import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from puna.errors import PunaError
from puna.files import digest_of
from puna.lineage.opened import Opened
from puna.lineage.verdict import Part
from puna.lineage.weights.places import in_place
from puna.lineage.weights.statistics import fisher, holm
from puna.lineage.weights.view import View
from puna.progress import QUIET, Progress
from puna.tokens import Tokenizer

FORMAT = 1
BLOCKS, UNITS, COLUMNS, TOKENS, DIMENSIONS = 12, 48, 24, 64, 48
LEAST_TOKENS = 16
MAX_BYTES = 1 << 20  # of a stored fingerprint
_SEED = 20260711
_CHUNK, _LEAST_VALUES = 1 << 24, 16


class Sample(Part):
    """A matrix in half precision, base64 of its little-endian bytes in rows."""

    rows: int = Field(ge=0, le=256)
    columns: int = Field(ge=0, le=256)
    data: str = Field(max_length=1 << 19)

    @model_validator(mode="after")
    def _whole(self) -> "Sample":
        if len(base64.b64decode(self.data, validate=True)) != 2 * self.rows * self.columns:
            raise ValueError("the data are not of that size")
        return self

    @classmethod
    def of(cls, matrix: Float[Tensor, "r c"]) -> "Sample":
        """The matrix at a scale where half precision neither overflows nor loses small values: its largest entry is 1."""
        scaled = matrix / matrix.abs().max().clamp(min=1e-30)
        data = scaled.to(torch.float16).numpy().astype("<f2").tobytes()
        return cls(rows=matrix.shape[0], columns=matrix.shape[1], data=base64.b64encode(data).decode("ascii"))

    def matrix(self) -> Float[Tensor, "r c"]:
        """Its values in fp32; what is not finite counts as nought."""
        values: Float[ndarray, "r c"] = np.frombuffer(base64.b64decode(self.data), dtype="<f2").reshape(
            self.rows, self.columns
        )
        return torch.from_numpy(np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0))


class Fingerprint(Part):
    """See the module. `tokens`: the first 8 bytes of each token's key, in hex; row i of `embed` (tokens by dimensions) and of `cosines`."""

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    name: str = Field(max_length=400)
    layers: int
    hidden: int
    ffn: int
    vocab: int
    experts: int
    parameters: int
    names_digest: str = Field(max_length=64)  # of all tensors' names and shapes
    tokenizer_digest: str | None = Field(max_length=64)  # of its entries in order; None where it has none
    blocks: tuple[int, ...] = Field(max_length=BLOCKS)
    up: tuple[Sample, ...] = Field(max_length=BLOCKS)
    tokens: tuple[str, ...] = Field(max_length=TOKENS)
    embed: Sample
    cosines: Sample
    multisets: tuple[str, ...] = Field(max_length=2 * BLOCKS + 1)
    missing: tuple[str, ...] = Field(default=(), max_length=64)

    @model_validator(mode="after")
    def _fits(self) -> "Fingerprint":
        if (
            len(self.up) != len(self.blocks)
            or self.embed.rows != len(self.tokens)
            or self.cosines.rows != self.cosines.columns
        ):
            raise ValueError("its parts do not fit together")
        if self.cosines.rows != len(self.tokens):
            raise ValueError("its parts do not fit together")
        return self


class Kinship(Part):
    """Two fingerprints beside each other. `log10_p`: None where no test could run; `likeness`: of the embeddings' cosines, -1 to 1."""

    identical: int = 0  # matrices with the same multiset of values
    log10_p: float | None = None  # the smaller of the tests that ran, times their number
    units_log10_p: float | None = None
    stream_log10_p: float | None = None
    likeness: float | None = None
    shared_tokens: int = 0
    sentence: str = ""


def make_fingerprint(opened: Opened, progress: Progress = QUIET) -> Fingerprint:
    """Read the embedding and up to 12 blocks' up-projections. Raises `PunaError` where the embedding cannot be read."""
    view, sizes = View(opened.checkpoint), opened.checkpoint.sizes
    blocks = sorted({round(i * (sizes.layers - 1) / max(1, BLOCKS - 1)) for i in range(BLOCKS)}) if sizes.layers else []
    missing = list(opened.checkpoint.missing)
    progress.start(f"fingerprint of {opened.name}", len(blocks) + 1, "matrices")
    embed = opened.checkpoint.read("embed")
    multisets = [multiset_digest(embed)]
    ids, keys = _drawn_tokens(opened.tokenizer, len(embed))
    rows = embed[ids].clone()
    del embed  # the largest tensor of many models
    progress.update(1)
    read, up = [], []
    for number, layer in enumerate(blocks, start=2):
        try:
            expert = 0 if sizes.experts else None
            matrix = view.up(layer, expert)
            multisets.append(multiset_digest(opened.checkpoint.read("up", layer, expert)))
        except PunaError as error:
            missing.append(f"block {layer}: {error.what[:80]}")
        else:
            read.append(layer)
            up.append(Sample.of(matrix[_drawn(len(matrix), UNITS)][:, _drawn(matrix.shape[1], COLUMNS)]))
        progress.update(number)
    progress.finish()
    stored = opened.checkpoint.stored
    return Fingerprint(
        name=opened.name[:400], layers=sizes.layers, hidden=sizes.hidden, ffn=sizes.ffn, vocab=sizes.vocab, experts=sizes.experts,
        parameters=sum(math.prod(tensor.shape) for tensor in stored.values()),
        names_digest=digest_of(sorted([name, list(tensor.shape)] for name, tensor in stored.items())),
        tokenizer_digest=None if opened.tokenizer is None else _entries_digest(opened.tokenizer),
        blocks=tuple(read), up=tuple(up), tokens=tuple(keys), embed=Sample.of(rows[:, _drawn(rows.shape[1], DIMENSIONS)]),
        cosines=Sample.of(_cosines(rows)), multisets=tuple(digest for digest in multisets if digest is not None), missing=tuple(line[:200] for line in missing[:64]),
    )  # fmt: skip


def parse_fingerprint(data: bytes, where: str) -> Fingerprint:
    """A stored fingerprint, checked. Raises `PunaError` where it is none."""
    try:
        return Fingerprint.model_validate_json(data)
    except ValidationError as error:
        raise PunaError(f"is no fingerprint ({error.error_count()} mistakes in it)", where=where) from None


def kinship(ours: Fingerprint, theirs: Fingerprint) -> Kinship:
    """The tests that both fingerprints allow.

    Null of both p-values: the places of one model's hidden units (stream dimensions) mean nothing to the other.
    """
    same = set(ours.multisets) & set(theirs.multisets)
    units = _units_p(ours, theirs) if ours.ffn == theirs.ffn and ours.hidden == theirs.hidden else None
    mine, other = _shared(ours.tokens, theirs.tokens)
    stream = likeness = None
    if len(mine) >= LEAST_TOKENS:
        if ours.hidden == theirs.hidden:
            a, b = ours.embed.matrix()[mine], theirs.embed.matrix()[other]
            stream = in_place((a - a.mean(0)).T.contiguous(), (b - b.mean(0)).T.contiguous()).log10_p
        likeness = _likeness(ours.cosines.matrix()[mine][:, mine], theirs.cosines.matrix()[other][:, other])
    ran = [p for p in (units, stream) if p is not None]
    log10_p = min(holm(ran)) if ran else None
    return Kinship(
        identical=len(same), log10_p=log10_p, units_log10_p=units, stream_log10_p=stream, likeness=likeness, shared_tokens=len(mine),
        sentence=_sentence(len(same), log10_p, likeness),
    )  # fmt: skip


def _units_p(ours: Fingerprint, theirs: Fingerprint) -> float | None:
    """Each drawn block of ours beside all of theirs, the best times their number; Fisher over ours."""
    others = [one.matrix() for one in theirs.up]
    found = []
    for one in ours.up:
        matrix = one.matrix()
        tried = [in_place(matrix, other).log10_p for other in others if other.shape == matrix.shape]
        if tried:
            found.append(min(0.0, min(tried) + math.log10(len(tried))))
    return fisher(found) if found else None


def _sentence(identical: int, log10_p: float | None, likeness: float | None) -> str:
    if identical:
        return f"{identical} of the matrices looked at hold exactly the same values (rounded to bf16)."
    if log10_p is not None and log10_p < -2:
        return f"Hidden units or stream dimensions stand in the same places (p = 1e{math.floor(log10_p)})."
    told = "No test could run: the widths differ." if log10_p is None else "Nothing stands in the same places."
    return told + ("" if likeness is None else f" Likeness of the embeddings' cosines: {likeness:.2f}.")


def _drawn(n: int, most: int) -> Tensor:
    """`most` of n indices, the same for every model with n of them; all where there are no more."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(_SEED + n))[:most].sort().values


def _drawn_tokens(tokenizer: Tokenizer | None, rows: int) -> tuple[Tensor, list[str]]:
    """The ids of the tokens with the smallest digests, and these; without a tokenizer a token is known by its id alone."""
    if tokenizer is None:
        named = [(hashlib.sha256(f"id {i} of {rows}".encode()).hexdigest()[:16], i) for i in range(rows)]
    else:
        plain = (i for i in range(min(rows, tokenizer.vocab_size)) if i not in tokenizer.special_ids)
        entries = ((tokenizer.token_bytes(i), i) for i in plain)
        named = [(hashlib.sha256(entry).hexdigest()[:16], i) for entry, i in entries if entry]
    chosen: dict[str, int] = {}
    for key, i in sorted(named):
        if len(chosen) == TOKENS:
            break
        chosen.setdefault(key, i)
    return torch.tensor(list(chosen.values()), dtype=torch.long), list(chosen)


def _entries_digest(tokenizer: Tokenizer) -> str:
    state = hashlib.sha256()
    for i in range(tokenizer.vocab_size):
        entry = tokenizer.token_bytes(i)
        state.update(len(entry).to_bytes(4, "little") + entry)
    return state.hexdigest()


def _cosines(rows: Float[Tensor, "t d"]) -> Float[Tensor, "t t"]:
    centred = rows - rows.mean(0, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit @ unit.T


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> tuple[list[int], list[int]]:
    place = {key: i for i, key in enumerate(theirs)}
    both = [(i, place[key]) for i, key in enumerate(ours) if key in place]
    return [i for i, _ in both], [j for _, j in both]


def _likeness(ours: Float[Tensor, "t t"], theirs: Float[Tensor, "t t"]) -> float:
    """Correlation of the cosines of all pairs of tokens."""
    upper = torch.triu_indices(len(ours), len(ours), offset=1)
    a, b = ours[upper[0], upper[1]].double(), theirs[upper[0], upper[1]].double()
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else 0.0


def multiset_digest(tensor: Tensor) -> str | None:
    """A digest of a tensor's values rounded to bf16, whatever their order: 16 hex digits; None where it holds fewer than 16 values that
    differ, as a tensor of zeros does. How often each of the 65,536 bit patterns occurs is all that it needs."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for part in tensor.flatten().split(_CHUNK):
        patterns = part.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        counts += np.bincount(patterns, minlength=1 << 16)
    if np.count_nonzero(counts) < _LEAST_VALUES:
        return None
    return hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest()[:16]
