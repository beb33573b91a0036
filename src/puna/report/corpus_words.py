"""What a corpus report says in plain words: what came in, what went, and which stages took it.

Comes in: `CorpusData`. Goes out: sentences, and a table for the terminal. Must never happen: bytes of files that are
compared with bytes of text: what reading gave is where the counting begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from puna.report.corpus_data import CorpusData
from puna.words import brief, cells, counted, label, listed, number, percent, size_bytes, small_share, wrapped

_MINUS = "\u2212"
_READ = "read"
_COLUMNS = 80  # of the terminal
_NAMED = 3  # stages in the headline
_NAME = 26  # cells of a stage's name in the table


@dataclass(frozen=True)
class Flow:
    """One stage, its counts made comparable with the others."""

    name: str
    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int


def flow(data: CorpusData) -> list[Flow]:
    """The stages with comparable counts: what the reader took in are files, so its bytes are those that it gave on."""
    rows = []
    for index, step in enumerate(data.steps):
        reads = index == 0 and step.step == _READ
        rows.append(
            Flow(
                step.step,
                max(step.documents_in, step.documents_out) if reads else step.documents_in,
                step.documents_out,
                step.bytes_out if reads else step.bytes_in,
                step.bytes_out,
            )
        )
    return rows


def gaps(data: CorpusData) -> list[str]:
    """Where one stage's output is not the next one's input: said on the page, as nothing may vanish between stages."""
    said = []
    held = (data.documents.heldout, data.bytes.heldout) if data.documents and data.bytes else (0, 0)
    for before, after in zip(data.steps, data.steps[1:], strict=False):
        lost = (before.documents_out - after.documents_in, before.bytes_out - after.bytes_in)
        if lost == (0, 0):
            continue
        between = f"Between {brief(label(before.step))} and {brief(label(after.step))}"
        if lost == held:
            said.append(
                f"{between}, {counted(lost[0], 'document')} ({size_bytes(lost[1])}) were set aside to judge by."
            )
        else:
            said.append(
                f"{between} the counts do not meet: {counted(before.documents_out, 'document')} and "
                f"{number(before.bytes_out)} bytes left the one, {number(after.documents_in)} and "
                f"{number(after.bytes_in)} bytes came to the other."
            )
    return said


def change(came: int, gone: int) -> str:
    """What a stage did to a count, as a share of what came to it: −12.3 %, +0.4 %, or nothing."""
    if gone == came:
        return "–"
    if not came:
        return "+"
    share = abs(gone - came) / came
    return f"{'+' if gone > came else _MINUS}{small_share(share)}"


def takers(rows: Sequence[Flow]) -> list[tuple[str, float]]:
    """(stage, share of all bytes that it took) for each that took any, most first."""
    base = rows[0].bytes_in if rows else 0
    found = [(row.name, (row.bytes_in - row.bytes_out) / base) for row in rows if base and row.bytes_out < row.bytes_in]
    return sorted(found, key=lambda pair: -pair[1])


def gone_bytes(rows: Sequence[Flow]) -> float | None:
    """The share of the bytes that went, all stages together; None where nothing came in."""
    base = rows[0].bytes_in if rows else 0
    return sum(row.bytes_in - row.bytes_out for row in rows) / base if base else None


def gone_documents(data: CorpusData, rows: Sequence[Flow]) -> float | None:
    """The share of the documents that went; None where stages made documents and no account says which is which."""
    if data.accounts:
        came = data.accounts.documents_in + data.accounts.split_off
        return sum(data.accounts.removed.values()) / came if came else None
    if not rows or not rows[0].documents_in or any(row.documents_out > row.documents_in for row in rows):
        return None
    return sum(row.documents_in - row.documents_out for row in rows) / rows[0].documents_in


def headline(data: CorpusData) -> str:
    """From how much, how much went, and the stages that took most; empty where no stage was counted."""
    rows = flow(data)
    gone = gone_bytes(rows)
    if gone is None:
        return ""
    came = data.accounts.documents_in if data.accounts else rows[0].documents_in
    start = f"From {counted(came, 'document')} and {size_bytes(rows[0].bytes_in)} of text,"
    if gone <= 0:
        return f"{start} nothing was taken away."
    documents = gone_documents(data, rows)
    also = f" and {percent(documents)} of the documents" if documents is not None else ""
    most = [f"{brief(label(name))} ({small_share(share)})" for name, share in takers(rows)[:_NAMED]]
    took = f"; {listed(most)} took the most" if len(most) > 1 else f", all of it by {brief(label(takers(rows)[0][0]))}"
    return f"{start} {small_share(gone)} of the bytes{also} went{took}."


def account(data: CorpusData) -> str:
    """Where every document went, in one sentence."""
    counts = data.accounts
    if counts is None:
        return ""
    split = f" and {number(counts.split_off)} cut off from longer ones" if counts.split_off else ""
    taken = sorted(((name, count) for name, count in counts.removed.items() if count), key=lambda pair: -pair[1])
    by = f": {listed([f'{number(count)} by {brief(label(name))}' for name, count in taken])}" if taken else ""
    kept = f"{number(counts.kept)} were kept as they came"
    changed = f"{number(counts.changed)} were kept with changes"
    gone = f"{number(sum(counts.removed.values()))} were removed{by}"
    return f"Of {counted(counts.documents_in, 'document')} that came in{split}, {kept}, {changed}, and {gone}."


def corpus_summary(data: dict[str, Any]) -> str:
    """The stages as a table for a terminal, at most 80 columns wide, with the headline above and the account below.

    `data` has the shape of `CorpusData`; raises pydantic's `ValidationError` where it has not. Only the table's own
    signs are not ASCII-safe: names may be of any script, and count as two columns where terminals draw them so.
    """
    found = CorpusData.model_validate(data)
    rows = flow(found)
    lines = wrapped(headline(found), _COLUMNS)
    if rows:
        lines += ["", _line("", "stage", "documents", "", "bytes", "")]
    for index, row in enumerate(rows):
        lines.append(
            _line(
                str(index + 1), wrapped(label(row.name), _NAME, most=1)[0],
                number(row.documents_out), change(row.documents_in, row.documents_out),
                size_bytes(row.bytes_out), change(row.bytes_in, row.bytes_out),
            )
        )  # fmt: skip
    for sentence in (account(found), *gaps(found)):
        if sentence:
            lines += ["", *wrapped(sentence, _COLUMNS)]
    return "\n".join(line.replace("\u202f", " ").replace("\u2212", "-").replace("–", "-").rstrip() for line in lines)


def _line(index: str, name: str, documents: str, documents_change: str, size: str, size_change: str) -> str:
    padded = name + " " * (_NAME - cells(name))
    return f"{index:>3}  {padded} {documents:>14} {documents_change:>9} {size:>11} {size_change:>9}"
