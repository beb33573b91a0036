"""Replies made together: each step plans, reads, chooses and says what became certain.

In: requests, at any time. Out: after each step the `Delta`s of the replies that grew. Must never happen: one bad request ends the
others, a block outlives its reply, or a reply depends on what is made beside it (in fp32, beyond rounding).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from puna.engine.blocks import BlockPool
from puna.engine.choosing import NOTHING, Allows, Chooser, RowState
from puna.engine.logprobs import token_logprobs
from puna.engine.looks import PagedCache, Reading
from puna.engine.paged import AnyCache, AnyReader
from puna.engine.reply import Reply
from puna.engine.request import Delta, Failed, Request, TokenLogprob
from puna.engine.schedule import Part, Scheduler, Text
from puna.engine.threads import threads_for
from puna.errors import PunaError
from puna.memory import free_memory

if TYPE_CHECKING:
    from puna.engine.engine import Engine
    from puna.engine.lookup import Lookup


@dataclass(frozen=True)
class Limits:
    """How much is done at once. More waits, and is refused beyond `waiting`."""

    running: int = 64
    """Replies made together."""
    waiting: int = 256
    """Requests in the queue; the next one is told to come back later."""
    cache_tokens: int | None = None
    """Tokens whose keys and values are kept; None takes what a quarter of the memory that is free holds, and no more than `running`
    contexts."""
    step_tokens: int = 512
    """Tokens read in one step: a long prompt is read in parts of it, so that the others' replies go on."""
    lookup: bool = False
    """Guess what a greedy reply repeats of its own text and check the guesses in one pass (prompt lookup)."""


@dataclass(eq=False)
class Job:
    """One request on its way. `state` is what drawing knows of it."""

    request: Request
    text: Text
    reply: Reply
    state: RowState
    lookup: "Lookup | None" = None
    began: bool = False


@dataclass
class Stats:
    """What has been done so far, and what is being done."""

    running: int = 0
    waiting: int = 0
    blocks: int = 0
    blocks_free: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    step_seconds: float = 0.0
    finished: dict[str, int] = field(default_factory=dict)


class Batch:
    """The replies that one model makes at the same time. Not for several threads: see `loop`."""

    def __init__(self, engine: "Engine", limits: Limits, blocks: int) -> None:
        self._engine, self._limits = engine, limits
        self._reader: AnyReader = engine.reader
        self._cache: AnyCache = self._reader.cache(blocks)
        pool = BlockPool(blocks, self._reader.block)
        self._scheduler = Scheduler(pool, running=limits.running, step_tokens=limits.step_tokens)
        self._chooser = Chooser(engine.config.vocab_size, engine.banned_ids)
        self._jobs: dict[Text, Job] = {}
        self.stats = Stats(blocks=blocks, blocks_free=blocks)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, request: Request, constraint: Allows | None = None) -> Job:
        """Queue a request; `constraint` is its compiled shape. Raises `PunaError` where its prompt leaves no room for a reply."""
        engine, prompt, sampling = self._engine, list(request.prompt), request.sampling
        check_prompt(prompt, engine.context, engine.config.vocab_size)
        limit = min(engine.context, len(prompt) + sampling.max_tokens)
        text = Text(prompt, limit)
        state = RowState(sampling, prompt, engine.config.vocab_size, constraint)
        self._scheduler.add(text)
        starts_text = engine.tokenizer.special_ids.issuperset(prompt)
        reply = Reply(
            engine.tokenizer, engine.stop_ids, sampling.stop, text.limit - len(prompt), starts_text=starts_text
        )
        guesses = self._limits.lookup and sampling.greedy and not state.changes_logits and request.top_logprobs is None
        job = Job(request, text, reply, state)
        if guesses:
            from puna.engine.lookup import Lookup

            job.lookup = Lookup(prompt, engine.stop_ids)
        self._jobs[text] = job
        self._count()
        return job

    def abort(self, job: Job) -> None:
        """Take a reply out at once: its blocks are free when this returns. Nothing where it has ended."""
        if self._jobs.pop(job.text, None) is not None:
            self._scheduler.remove(job.text)
            self._finished("abort")

    @torch.inference_mode()
    def step(self) -> Iterator[tuple[Job, Delta | Failed]]:
        """One pass over the model, and what it brought."""
        for job in self._jobs.values():
            self._guess(job)
        parts = self._scheduler.plan()
        self.stats.steps += 1
        try:
            grown = self._read(parts)
        except Exception as error:
            # Whose fault it was is not known: each alone, so that only the guilty one ends.
            grown = []
            for part in parts:
                try:
                    grown += self._read([part])
                except Exception as own:
                    grown.append((self._jobs[part.text], _failed(own if len(parts) > 1 else error)))
        for job, delta in grown:
            written = job.text.blocks[job.text.shared :]  # what it found in the cache is others' and sound
            if isinstance(delta, Failed) or delta.finish_reason:
                self._jobs.pop(job.text)
                self._scheduler.remove(job.text)
                self._finished("error" if isinstance(delta, Failed) else str(delta.finish_reason))
            if isinstance(delta, Failed):
                clear_written(self._scheduler.pool, self._cache, written)
        self._count()
        yield from grown

    def _guess(self, job: Job) -> None:
        text = job.text
        if job.lookup is not None and text.read == len(text.ids) - 1:
            room = text.limit - len(text.ids) - 1
            text.draft = job.lookup.propose(room) if room > 0 else []

    def _read(self, parts: list[Part]) -> list[tuple[Job, Delta | Failed]]:
        """Read the parts and let the replies grow whose text was read to its end."""
        if not parts:
            return []
        readings, drafts = [], []
        for part in parts:
            draft = list(part.text.draft) if part.last else []
            drafts.append(draft)
            readings.append(Reading(part.ids, part.start, part.text.blocks, 1 + len(draft) if part.last else 0))
        with threads_for(sum(len(part.ids) for part in parts) * self._engine.config.parameters):
            logits = self._reader(readings, self._cache)
        for part, draft in zip(parts, drafts, strict=True):
            if part.start < len(self._jobs[part.text].request.prompt):
                self.stats.prompt_tokens += len(part.ids)
            self._scheduler.advance(part.text, part.start + len(part.ids) - len(draft))
        ending = [(part, draft) for part, draft in zip(parts, drafts, strict=True) if part.last]
        jobs = [self._jobs[part.text] for part, _ in ending]
        if not jobs:
            return []
        sizes = [1 + len(draft) for _, draft in ending]
        rows = list(logits.split(sizes)) if max(sizes) > 1 else None
        chosen = self._chosen(jobs, logits, rows, [draft for _, draft in ending])
        tops = [job.request.top_logprobs for job in jobs]
        logprobs: list[TokenLogprob | None] = [None] * len(jobs)
        if any(top is not None for top in tops):
            wants = [number for number, top in enumerate(tops) if top is not None and chosen[number] != [NOTHING]]
            at = [sum(sizes[:number]) for number in wants]
            got = token_logprobs(
                logits[at], torch.tensor([chosen[number][0] for number in wants]), [tops[n] or 0 for n in wants]
            )
            for number, one in zip(wants, got, strict=True):
                logprobs[number] = one
        return [(job, self._grow(job, ids, one)) for job, ids, one in zip(jobs, chosen, logprobs, strict=True)]

    def _chosen(
        self, jobs: list[Job], logits: torch.Tensor, rows: list[torch.Tensor] | None, drafts: list[list[int]]
    ) -> list[list[int]]:
        """Each reply's next ids, one or, where a draft was right, several."""
        if rows is None:
            return [[id_] for id_ in self._chooser.choose([job.state for job in jobs], logits).tolist()]
        chosen = []
        for job, own, draft in zip(jobs, rows, drafts, strict=True):
            taken = self._chooser.check(job.state, own, draft)
            self.stats.drafted_tokens += len(draft)
            self.stats.accepted_tokens += len(taken) - 1
            chosen.append(taken)
        return chosen

    def _grow(self, job: Job, ids: list[int], logprob: TokenLogprob | None) -> Delta | Failed:
        """Let a reply take the ids that were chosen for it."""
        if ids[-1] == NOTHING:
            return Failed(job.state.why_nothing())
        text, state = job.text, job.state
        try:
            for id_ in ids if len(ids) == 1 else []:  # `check` has pushed those of a draft
                state.push(id_)
            complete = bool(getattr(state.constraint, "finished", False))
        except Exception as error:  # a library's matcher refused: this reply's own trouble
            return _failed(error)
        before = len(text.ids)
        text.ids.extend(ids)
        text.draft = []
        if job.lookup is not None:
            for id_ in ids:
                job.lookup.push(id_)
        self._scheduler.advance(text, before + len(ids) - 1)
        delta = job.reply.take(ids, () if logprob is None else (logprob,), ends=complete)
        self.stats.generated_tokens += len(delta.ids)
        if not job.began:
            job.began = True
            self.stats.cached_tokens += text.found
            delta = Delta(delta.ids, delta.text, delta.logprobs, delta.finish_reason, text.found)
        return delta

    def _finished(self, reason: str) -> None:
        self.stats.finished[reason] = self.stats.finished.get(reason, 0) + 1
        self._count()

    def _count(self) -> None:
        scheduler = self._scheduler
        self.stats.running, self.stats.waiting = len(scheduler.running), len(scheduler.waiting)
        self.stats.blocks_free, self.stats.preemptions = scheduler.pool.free, scheduler.preemptions


def check_prompt(prompt: list[int], context: int, vocabulary: int) -> None:
    """Raise `PunaError` for a prompt that leaves no room for a reply, or that names ids the model has not."""
    if len(prompt) >= context:
        raise PunaError(
            f"the prompt has {len(prompt)} tokens and the model's context is {context}",
            mend="give a shorter prompt",
        )
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise PunaError(f"token ids lie between 0 and {vocabulary - 1}", where="prompt")


def clear_written(pool: BlockPool, cache: AnyCache, blocks: list[int]) -> None:
    """What a failed text wrote may be no numbers: nobody is to find it, or to meet it through a mask. What others hold stays."""
    pool.forget(blocks)
    cache.clear([block for block in blocks if not pool.held([block])])


def cache_blocks(engine: "Engine", limits: Limits) -> int:
    """Blocks of the cache that the limits ask for, and enough for one whole context. Raises `PunaError` where they ask for less."""
    reader, block = engine.reader, engine.reader.block
    if limits.cache_tokens is not None:
        if limits.cache_tokens < 2 * block:
            raise PunaError(f"the cache must hold at least {2 * block} tokens", where="cache-tokens")
        return limits.cache_tokens // block
    per_text = spacious(engine.context, block)
    per_block = block * PagedCache.bytes_per_token(engine.config, reader.dtype)
    free = torch.cuda.mem_get_info(reader.device)[0] if reader.device.type == "cuda" else free_memory()
    return max(per_text, min(limits.running * per_text, free // 4 // per_block))


def spacious(tokens: int, block: int) -> int:
    """Blocks for a text of so many tokens, as `BlockPool.claim` lays texts out: the next power of two."""
    return 1 << (-(-tokens // block) - 1).bit_length()


def _failed(error: Exception) -> Failed:
    return Failed(f"{type(error).__name__}: {error}")
