"""The weights of one model beside those of others: identities, exact tests, the block map, what was done.

Comes in: opened models. Goes out: `verdict.Weights`, one a reference. Must never happen: "independent" said where no test could have
seen a descent, or "derived" on a second opinion.

Who decides: tensors that are the same numbers; else the exact tests (`stream`, `in_place`, phi_U) and phi_MATCH, Holm over those that ran,
against `DERIVED_BELOW`. Attention and norms are second opinions: shown, never counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from puna.lineage.names import compare_names
from puna.lineage.opened import Opened
from puna.lineage.tokenizer import shared_tokens
from puna.lineage.verdict import DERIVED_BELOW, NOTHING_ABOVE, Block, TensorDifference, Test, Verdict, Weights
from puna.lineage.weights import sentences
from puna.lineage.weights.attention import attention_alike, match_heads
from puna.lineage.weights.blocks import BlockMap, map_blocks
from puna.lineage.weights.difference import measure
from puna.lineage.weights.identity import Identity, find_identities, unsound_tensors
from puna.lineage.weights.matching import Effort
from puna.lineage.weights.merged import Mixture, mixture
from puna.lineage.weights.norms import norm_gains
from puna.lineage.weights.places import units_in_place
from puna.lineage.weights.reading import Checkpoint
from puna.lineage.weights.relation import Measured, relate
from puna.lineage.weights.statistics import holm
from puna.lineage.weights.stream import Stream, find_stream
from puna.lineage.weights.undo import Origin, pairs
from puna.lineage.weights.units import phi_u
from puna.lineage.weights.view import View
from puna.progress import QUIET, Progress

DECIDING = ("stream", "in_place", "phi_U", "phi_MATCH")


@dataclass
class _Found:
    """What is known of MODEL and one reference before it is put into words."""

    reference: Opened
    ours: View
    theirs: View
    tokens: Int[Tensor, "n 2"]
    stream: Stream
    identities: dict[str, Identity]
    tests: list[Test]
    blocks: BlockMap | None
    log10_p: float | None
    decided_by: str
    verdict: Verdict
    missing: tuple[str, ...]


def compare_weights(
    model: Opened, references: Sequence[Opened], *, effort: Effort | None = None, progress: Progress = QUIET
) -> list[Weights]:
    """MODEL beside each of `references`; where several could be its parents, they are also weighed against one another (a merge).

    `effort`: None chooses by the sizes. Raises `PunaError` where no tensor of a model can be read.
    """
    bad = unsound_tensors(model.checkpoint, progress)
    found = [_examine(model, reference, bad, effort, progress) for reference in references]
    together = _joint(model.checkpoint, found)
    return [_in_words(model, one, together, progress) for one in found]


def _examine(
    model: Opened, reference: Opened, bad: dict[str, str], effort: Effort | None, progress: Progress
) -> _Found:
    ours, theirs = View(model.checkpoint), View(reference.checkpoint)
    worse = unsound_tensors(reference.checkpoint, progress)
    missing = (*model.checkpoint.missing, *(f"MODEL's {name} {why}" for name, why in bad.items()),
               *reference.checkpoint.missing, *(f"REFERENCE's {name} {why}" for name, why in worse.items()))  # fmt: skip
    tokens = _tokens(model, reference)
    identities = find_identities(model.checkpoint, reference.checkpoint, progress)
    ours = View(_turned(model.checkpoint, identities))
    tests: list[Test] = []
    blocks = None
    if _whole(model.checkpoint, bad) and _whole(reference.checkpoint, worse):
        stream = find_stream(ours, theirs, tokens)
        tests.append(stream.test)
        if stream.basis is not None:
            ours = View(ours.checkpoint, stream.basis)
            blocks = map_blocks(ours, theirs, effort, progress)
            beside = _beside(ours, theirs)
            tests += [
                units_in_place(ours, theirs, progress),
                phi_u(ours, theirs, beside, effort, progress),
                blocks.test,
            ]
            mapped = [(i, j) for i, j in enumerate(blocks.sources) if j is not None] or beside
            tests += [attention_alike(ours, theirs, mapped)]
        tests += [norm_gains(model.checkpoint, reference.checkpoint)]
    else:
        stream = Stream(
            None,
            Test(name="stream", title="dimensions of the stream in place", why_not="tensors are missing or not finite"),
        )
        tests.append(stream.test)
    log10_p, decided_by = _deciding(tests)
    verdict, decided_by = _verdict(model.checkpoint, reference.checkpoint, identities, log10_p, decided_by, tests)
    return _Found(
        reference, ours, theirs, tokens, stream, identities, tests, blocks, log10_p, decided_by, verdict, missing
    )


def _turned(model: Checkpoint, identities: dict[str, Identity]) -> Checkpoint:
    """MODEL with its square matrices the right way round, where REFERENCE shows that they are stored transposed."""
    turned = {
        name
        for name, identity in identities.items()
        if identity.kind == "transposed" and len(set(model.stored[name].shape)) == 1
    }
    roles = {
        role: replace(source, turned=True) if source.name in turned else source for role, source in model.roles.items()
    }
    return replace(model, roles=roles) if turned else model


def _tokens(model: Opened, reference: Opened) -> Int[Tensor, "n 2"]:
    """Shared ids: by bytes where both tokenizers can be read, else the ids themselves where there are as many."""
    sizes = model.checkpoint.sizes.vocab, reference.checkpoint.sizes.vocab
    if model.tokenizer is not None and reference.tokenizer is not None:
        pairs_ = shared_tokens(model.tokenizer, reference.tokenizer)
        return pairs_[(pairs_[:, 0] < sizes[0]) & (pairs_[:, 1] < sizes[1])]
    if sizes[0] == sizes[1]:
        return torch.arange(sizes[0])[:, None].expand(-1, 2)
    return torch.zeros(0, 2, dtype=torch.long)


def _whole(checkpoint: Checkpoint, bad: dict[str, str]) -> bool:
    """Whether every tensor that the tests need is there and finite."""
    sizes = checkpoint.sizes
    expert = 0 if sizes.experts else None
    needed: list[tuple[str, int | None, int | None]] = [("embed", None, None)]
    for layer in range(sizes.layers):
        needed += [(kind, layer, expert) for kind in ("gate", "up", "down")] + [
            (kind, layer, None) for kind in ("q", "k", "v", "o")
        ]
    names = {role: source.name for role, source in checkpoint.roles.items()}
    return all((name := names.get(role)) is not None and "NaN" not in bad.get(name, "") for role in needed)  # type: ignore[call-overload]


def _beside(ours: View, theirs: View) -> list[tuple[int, int]]:
    """Pairs of blocks for phi_U, block i beside block i: chosen by no test, so that its p-value holds. Where one model is deeper this sees only
    what kept its place; the block map sees the rest."""
    return [(i, i) for i in range(min(ours.layers, theirs.layers))]


def _deciding(tests: Sequence[Test]) -> tuple[float | None, str]:
    ran = [test for test in tests if test.ran and test.name in DECIDING and test.log10_p is not None]
    if not ran:
        return None, ""
    adjusted = holm([test.log10_p or 0.0 for test in ran])
    least = min(range(len(ran)), key=lambda i: adjusted[i])
    return adjusted[least], ran[least].name


def _verdict(
    model: Checkpoint,
    reference: Checkpoint,
    identities: dict[str, Identity],
    log10_p: float | None,
    decided_by: str,
    tests: Sequence[Test],
) -> tuple[Verdict, str]:
    if identities and _all_equal(model, reference, identities):
        return "same", "identity"
    if identities:
        return "derived", "identity"
    if log10_p is None:
        return "cannot tell", ""
    if log10_p < math.log10(DERIVED_BELOW):
        return "derived", decided_by
    if log10_p > math.log10(NOTHING_ABOVE) and {"stream", "phi_MATCH"} <= {test.name for test in tests if test.ran}:
        return "independent", decided_by
    return "cannot tell", decided_by


def _all_equal(model: Checkpoint, reference: Checkpoint, identities: dict[str, Identity]) -> bool:
    """Every tensor of MODEL equal to the one of its role, the trivial ones too."""
    if model.sizes != reference.sizes:
        return False
    for role, source in model.roles.items():
        partner = reference.roles.get(role)
        if partner is None:
            return False
        known = identities.get(source.name)
        if known is not None and known.kind == "equal" and known.reference == partner.name:
            continue
        if not torch.equal(model.read(*role), reference.read(*role)):
            return False
    return True


def _joint(model: Checkpoint, found: Sequence[_Found]) -> Mixture | None:
    """All references weighed together, where at least two of them may be parents in one stream."""
    alike = [
        one
        for one in found
        if one.verdict != "independent" and one.stream.basis is not None and one.stream.basis.matrix is None
    ]
    return (
        mixture(model, [(one.reference.name, one.reference.checkpoint) for one in alike]) if len(alike) >= 2 else None
    )


def _in_words(model: Opened, found: _Found, together: Mixture | None, progress: Progress) -> Weights:
    reference = found.reference
    names = compare_names(model.checkpoint, reference.checkpoint)
    blocks = found.blocks
    measured: list[Measured] = []
    if found.stream.basis is not None and blocks is not None:
        measured = _measured(model, found, progress)
    related = None
    parameters = sum(math.prod(stored.shape) for stored in model.checkpoint.stored.values())
    if found.verdict in ("same", "derived") and blocks is not None:
        rebuilt = _vocabulary_changed(model, reference, found.tokens)
        related = relate(model.checkpoint.sizes, reference.checkpoint.sizes, measured, blocks.sources, parameters=parameters,
                         renames=len(names.renames), vocabulary_changed=rebuilt, mixture=together)  # fmt: skip
    elif found.verdict in ("same", "derived"):
        inherited = sum(math.prod(model.checkpoint.stored[name].shape) for name in found.identities)
        related = sentences.unnamed(inherited / parameters if parameters else 0.0)
    shown = tuple(one.shown for one in measured)
    weights = Weights(
        verdict=found.verdict, sentence="", p_value=None if found.log10_p is None else 10**found.log10_p, log10_p=found.log10_p,
        null=next((test.null for test in found.tests if test.name == _deciding(found.tests)[1]), ""), decided_by=found.decided_by,
        relation=related.name if related else None, also=related.also if related else (), share=related.share if related else None,
        blocks=_blocks(found, shown), block_map=() if blocks is None else tuple(tuple(map(float, row)) for row in blocks.log10_p),
        tests=tuple(found.tests), tensors=shown, coefficients=together.coefficients if together and related else (),
        missing=found.missing,
    )  # fmt: skip
    sentence, evidence = sentences.told(weights, model.name, reference.name, found.identities)
    return weights.model_copy(update={"sentence": sentence, "evidence": evidence})


def _measured(model: Opened, found: _Found, progress: Progress) -> list[Measured]:
    """Every tensor beside the one it comes from; of strangers, beside the one of its place."""
    blocks = found.blocks
    if blocks is None:
        raise ValueError("there is no block map")
    derived = found.verdict in ("same", "derived")
    sources = [
        source if derived else (i if i < found.theirs.layers else None) for i, source in enumerate(blocks.sources)
    ]
    heads, kv_heads = {}, {}
    if derived:
        for i, source in enumerate(sources):
            if source is not None:
                heads[i], kv_heads[i] = match_heads(found.ours.attention(i), found.theirs.attention(source))
    tokens = None if _same_ids(found.tokens, model, found.reference) else found.tokens
    origin = Origin(sources, blocks.units if derived else {}, heads, kv_heads, tokens)
    made = []
    progress.start("differences", len(model.checkpoint.roles), "tensors")
    for done, pair in enumerate(pairs(found.ours, found.theirs, origin), start=1):
        as_stored = (pair.ours.T, pair.theirs.T) if pair.role.kind in ("down", "o") else (pair.ours, pair.theirs)
        facts = measure(*as_stored, kind=derived)
        known = found.identities.get(pair.name)
        shown = TensorDifference(
            name=pair.name, reference=pair.reference, kind=pair.role.kind, layer=pair.role.layer, parameters=pair.parameters,
            identity=known.kind if known else "", undone=pair.undone, difference=facts.relative, cosine=facts.cosine,
        )  # fmt: skip
        made.append(
            Measured(shown, facts, pair.role.layer is not None and pair.ours.ndim == 2 and pair.role.kind != "router")
        )
        progress.update(done)
    progress.finish()
    return made


def _same_ids(tokens: Int[Tensor, "n 2"], model: Opened, reference: Opened) -> bool:
    return (
        bool((tokens[:, 0] == tokens[:, 1]).all())
        and len(tokens) >= min(model.checkpoint.sizes.vocab, reference.checkpoint.sizes.vocab) * 0.98
    )


def _vocabulary_changed(model: Opened, reference: Opened, tokens: Int[Tensor, "n 2"]) -> bool:
    """Another vocabulary, not only one padded to another multiple: ids moved, or a tenth of the entries are new."""
    if model.tokenizer is None or reference.tokenizer is None:
        return model.checkpoint.sizes.vocab != reference.checkpoint.sizes.vocab
    moved = float((tokens[:, 0] != tokens[:, 1]).float().mean()) if len(tokens) else 1.0
    return moved > 0.05 or len(tokens) < 0.9 * model.tokenizer.vocab_size


def _blocks(found: _Found, shown: Sequence[TensorDifference]) -> tuple[Block, ...]:
    blocks = found.blocks
    if blocks is None:
        return ()
    made = []
    for i, source in enumerate(blocks.sources):
        sizes = [
            one.difference
            for one in shown
            if one.layer == i and one.difference is not None and not one.kind.endswith("norm")
        ]
        made.append(Block(
            block=i, source=source, log10_p=None if source is None else float(blocks.log10_p[i, source]),
            holm_log10_p=None if source is None else float(blocks.holm[i, source]),
            difference=sorted(sizes)[len(sizes) // 2] if sizes and source is not None else None, runner_up=blocks.runner_up[i],
        ))  # fmt: skip
    return tuple(made)
