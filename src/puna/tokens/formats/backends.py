"""`tokenizers` backends made from what other formats hold: SentencePiece's scored pieces, and byte-level merges.

Comes in: entries with scores or ranks, already bounded by their readers. Goes out: a `tokenizers.Tokenizer` that gives the
ids the original gives. Must never happen: a vocabulary taken whose ids this backend could not reproduce.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from puna.errors import PunaError
from puna.tokens.formats.pretokenizers import pre_tokenizer

# Kinds of pieces: sentencepiece_model.proto's numbers, which GGUF's `tokenizer.ggml.token_type` took over.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPACE: Final = "\u2581"  # SentencePiece's space
_MAX_PIECE = 512  # characters; finding the pairs costs the square of it
_MAX_PAIRS = 1_000_000  # LLaMA 2 has 61,249, Gemma 580,604; each takes about 400 bytes here and in the backend
_MAX_PAIR_CHARACTERS = 16_000_000  # of all pairs together; LLaMA 2 has half a million, and the backend copies them


def sentencepiece_backend(
    pieces: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    add_prefix_space: bool,
    byte_fallback: bool,
    remove_extra_whitespaces: bool = False,
) -> Backend:
    """The BPE of a SentencePiece vocabulary (`pieces` with U+2581 for a space, in the order of their ids).

    SentencePiece joins the two neighbours whose piece has the best score, the leftmost first; here each such pair is a merge,
    in the order of the scores, so the ids are the same. `add_prefix_space`: every text begins as if a space stood before it.
    `byte_fallback`: what no piece holds becomes the pieces <0x00> to <0xFF>, else the unknown piece.
    Raises `PunaError` where entries repeat, or where an order of merges cannot stand for the scores.
    """
    vocab = _ids(pieces)
    unknown = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == UNKNOWN]
    bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
    if byte_fallback and (missing := sorted(bytes_ - vocab.keys())):
        raise PunaError(f"the vocabulary falls back to bytes but has no piece {missing[0]}")
    if not unknown and not byte_fallback:
        raise PunaError("the vocabulary has neither an unknown piece nor pieces for bytes")
    merges = merges_by_score(pieces, scores, kinds)
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token=unknown[0] if unknown else None,
                                 fuse_unk=True, byte_fallback=byte_fallback))  # fmt: skip
    special = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind in (UNKNOWN, CONTROL)]
    user = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == USER_DEFINED]
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if remove_extra_whitespaces:
        steps += [
            normalizers.Replace(Regex(f"\\A{SPACE}+|{SPACE}+\\z"), ""),
            normalizers.Replace(Regex(SPACE + "{2,}"), SPACE),
        ]
    if add_prefix_space and not user:
        steps.append(normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    if add_prefix_space and user:
        backend.pre_tokenizer = _space_before_the_first(user, remove_extra_whitespaces)
    strip = [decoders.Strip(content=" ", left=1, right=0)] if add_prefix_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    # Matched in the text whose spaces are U+2581 already, the longest first, as SentencePiece does.
    backend.add_tokens([AddedToken(name, normalized=True) for name in user])
    return backend


def _space_before_the_first(user: Sequence[str], collapsed: bool) -> pre_tokenizers.PreTokenizer:
    """One space before a text in which user-defined pieces are found first, and none after such a piece.

    A normalizer would put it before what follows each piece as well. Metaspace puts one before the text's first part only, but
    none where that begins with its own sign; so the first Metaspace has the plain space, which the normalizer left nowhere.
    """
    if blank := [piece for piece in user if not piece.strip(SPACE)]:
        raise PunaError(f"user-defined pieces of spaces alone ({len(blank)} of them) beside a space before each text "
                        "are not supported")  # fmt: skip
    if collapsed:
        raise PunaError("user-defined pieces beside spaces that are taken out of the text are not supported")
    return pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
        pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False),
    ])  # fmt: skip


def merges_by_score(pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> list[tuple[str, str]]:
    """Every pair of neighbours that SentencePiece would join, in the order in which it prefers them.

    Source: sentencepiece/src/bpe_model.cc (and llama.cpp's copy of it): a priority queue of pairs whose joined text is a piece,
    by score, then by position. Within a piece, and among tied runs of one character (LLaMA's runs of spaces), the longest
    left part goes first, which is what "the leftmost first" makes of them. Other ties have no order of merges: `PunaError`.
    """
    normal = {piece: piece for piece, kind in zip(pieces, kinds, strict=True) if kind == NORMAL}
    characters = 0
    pairs: list[tuple[float, int, int, str, str]] = []
    tied: defaultdict[float, list[str]] = defaultdict(list)
    for piece, score, kind in zip(pieces, scores, kinds, strict=True):
        if kind not in (NORMAL, UNUSED) or len(piece) < 2:
            continue
        if len(piece) > _MAX_PIECE:
            raise PunaError(
                f"the piece {piece[:40]!r}... has {len(piece):,} characters; none known has more than {_MAX_PIECE}"
            )
        cuts = [
            cut for cut in range(1, len(piece))
            if (cut == 1 or piece[:cut] in normal) and (cut == len(piece) - 1 or piece[cut:] in normal)
        ]  # fmt: skip
        if not cuts:
            continue  # no text becomes this piece
        if kind == UNUSED:
            raise PunaError(f"the piece {piece[:40]!r} is marked unused but two others make it; that is not supported")
        characters += len(cuts) * len(piece)
        if len(pairs) + len(cuts) > _MAX_PAIRS or characters > _MAX_PAIR_CHARACTERS:
            raise PunaError(f"more than {_MAX_PAIRS:,} pairs of pieces make pieces, or pairs of more than {_MAX_PAIR_CHARACTERS:,} "
                            "characters; no vocabulary known has so many")  # fmt: skip
        tied[score].append(piece)
        for cut in cuts:
            left, right = piece[:cut], piece[cut:]
            for part in (left, right):
                if part not in normal:
                    raise PunaError(f"the piece {piece[:40]!r} holds {part!r}, which is no piece of its own")
            # `normal` has the same texts: no copy of them is kept.
            pairs.append((-score, -cut, len(piece) - cut, normal[left], normal[right]))
    for score, group in tied.items():
        if len(group) > 1 and len(set("".join(group))) > 1:
            raise PunaError(f"{len(group):,} pieces that merges can make share the score {score:g} (as {group[0][:40]!r} and "
                            f"{group[1][:40]!r} do), so no order of merges gives their ids")  # fmt: skip
    pairs.sort(key=lambda pair: pair[:3])
    return [(left, right) for *_, left, right in pairs]


def byte_level_backend(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pre: str,
    specials: Collection[str] = (),
    added: Collection[str] = (),
    ignore_merges: bool = False,
) -> Backend:
    """A byte-level BPE: `vocab` and `merges` in GPT-2's alphabet of bytes, `pre` the name of its cut (`pretokenizers`).

    `specials`: entries that no text may become; `added`: entries that are matched in a text as they stand, before the cut.
    Both are in `vocab`. `ignore_merges`: a word that is an entry is taken whole. Raises `PunaError`.
    """
    cut = pre_tokenizer(pre)
    if unknown := [name for name in (*specials, *added) if name not in vocab]:
        raise PunaError(f"the special token {unknown[0][:80]!r} is not in the vocabulary")
    for left, right in merges:
        for entry in (left, right, left + right):
            if entry not in vocab:
                raise PunaError(
                    f"the merge {left[:40]!r} {right[:40]!r} needs {entry[:80]!r}, which is not in the vocabulary"
                )
    backend = Backend(models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=ignore_merges))
    backend.pre_tokenizer = cut
    backend.decoder = decoders.ByteLevel()
    by_id = vocab.__getitem__
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in sorted(specials, key=by_id)])
    backend.add_tokens([AddedToken(name, normalized=False) for name in sorted(added, key=by_id)])
    return backend


def _ids(pieces: Iterable[str]) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        if not piece:
            raise PunaError(f"entry {number} is empty")
        if vocab.setdefault(piece, number) != number:
            raise PunaError(f"entries {vocab[piece]} and {number} are both {piece[:40]!r}")
    return vocab
