"""The stages that make data: documents, the tokenizer, conversations, packed rows.

Comes in: the sources that the recipe names. Goes out: artefacts for the training stages. Must never happen: work done
here that a room could do without knowing of the others.
"""

from pathlib import Path
from typing import Any

from puna.build.base import TOKENIZER_SAMPLE_BYTES
from puna.build.facts import actual_shape, identity_of, wished_shape
from puna.build.graph import LEDGER, Context, Stage
from puna.build.mixture import Mixed, Replay, texts_of
from puna.corpus import build_documents, source_digest
from puna.corpus.chat import make_conversations, read_conversations
from puna.errors import PunaError
from puna.files import atomic_file, canonical_json, file_sha256, write_json
from puna.recipe.base import Base
from puna.recipe.schema import DOCSTRINGS, Sft


def corpus_stage() -> Stage:
    """Text in, clean documents out."""

    def settings(context: Context) -> Any:
        section = context.recipe.corpus
        # Neither the machine's share nor the paths change a byte of the documents; the files' contents do.
        rest = section.model_dump(exclude={"sources": True, "scale": True, "thresholds": True, "correct": {"blocklist"},
                                           "perplexity": {"reference"}, "quality": {"good"}, "safety": {"words"},
                                           "decontaminate": {"evals"}})  # fmt: skip
        said = [source.model_dump(exclude={"path", "max_epochs"}) for source in section.named]
        return {**rest, "said": said, **source_digest(section)}

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        report = build_documents(context.recipe.corpus, folder, context.progress, work)
        told = [["sources", {"artefact": work.name, "sources": report["sources"]}]]
        return {"documents": report["documents"], "bytes": report["bytes"], LEDGER: told}

    return Stage("corpus", "reading, cleaning and splitting the text", ("corpus",), (), settings, run)


def tokenizer_stage() -> Stage:
    """Byte-level BPE over the training documents."""

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.tokens import train_tokenizer

        shape = wished_shape(context.recipe)
        texts = texts_of(context.done["corpus"], TOKENIZER_SAMPLE_BYTES)
        return dict(train_tokenizer(texts, shape.vocab, folder, context.progress))

    return Stage("tokenizer", "training the tokenizer", ("tokens",), ("corpus",),
                 lambda context: {"vocab": wished_shape(context.recipe).vocab}, run)  # fmt: skip


def pack_stage(base: Base | None) -> Stage:
    """Documents to packed rows; with a base, some of its old text among them, and long documents more often where it is lengthened."""

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.tokens import Tokenizer
        from puna.tokens.pack import pack_documents
        from puna.tokens.stream import encode_documents, padding_id

        tokenizer = Tokenizer.load(context.done["tokenizer"])
        shape, bytes_per_token = actual_shape(context), context.facts("tokenizer")["bytes_per_token"]
        mixed = Mixed(context.done["corpus"])
        if base is not None and base.context is not None:
            mixed.read_long_ones(base.upsample, int(context.facts("base")["context"] * bytes_per_token))
        rows = mixed.counted(encode_documents(tokenizer, mixed.texts()))
        replay = Replay(context.done["old"], base.replay, bytes_per_token) if base is not None and base.replay else None
        if replay:
            rows = replay.after(rows, tokenizer, shape.context)
        facts = pack_documents(rows, shape.context, folder, vocab_size=shape.vocab, pad_id=padding_id(tokenizer),
                               turns=lambda: mixed.turns, progress=context.progress)  # fmt: skip
        mixed.write(folder, context.progress)
        return {**facts, **(replay.report(context.progress) if replay else {})}

    inputs = ("corpus", "tokenizer", *(["base"] if base else []), *(["old"] if base and base.replay else []))
    asked = {"replay": base.replay, "upsample": base.upsample if base.context else None} if base else {}
    return Stage("pack", "turning documents into rows of tokens", ("tokens",), inputs,
                 lambda context: {"context": actual_shape(context).context, "vocab": actual_shape(context).vocab, **asked}, run)  # fmt: skip


def chat_stage(number: int, tune: Sft) -> Stage:
    """Conversations: made from the docstrings, or the user's own, in one form."""
    made = tune.data == DOCSTRINGS

    def settings(context: Context) -> Any:
        return (
            {"identity": identity_of(context), "seed": context.seed} if made else conversations_digest(Path(tune.data))
        )

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        out = folder / "chat.jsonl"
        if made:
            functions = context.done["corpus"] / "functions.jsonl"
            if not functions.is_file():
                raise PunaError('data = "docstrings" needs "python" among corpus.sources', where=f"tune.{number}.data",
                                mend="name a file of conversations, or take the [[tune]] table out: --set tune=[]")  # fmt: skip
            report = make_conversations(functions, out, identity_of(context), context.seed)
            write_json(folder / "chat.json", report)
            return {"conversations": sum(1 for _ in open(out, encoding="utf-8"))}
        count = 0
        with atomic_file(out) as stream:
            for conversation in read_conversations(Path(tune.data), context.progress):
                stream.write(canonical_json(conversation) + b"\n")
                count += 1
        if not count:
            raise PunaError("holds no conversation", where=tune.data)
        write_json(folder / "chat.json", {"conversations": count, "source": Path(tune.data).name})
        return {"conversations": count}

    inputs = ("corpus",) if made else ()
    return Stage(f"chat-{number}", "collecting conversations", ("corpus",), inputs, settings, run)


def conversations_digest(path: Path) -> Any:
    """What the stage graph hashes of a user's conversations."""
    if not path.exists():
        raise PunaError("does not exist", where=str(path), mend="name a .jsonl file or a folder of them")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[file.name, file_sha256(file)] for file in files]


def chat_pack_stage(number: int) -> Stage:
    """Conversations to packed rows with the loss on the assistant's tokens only."""
    name = f"chat-pack-{number}"

    def run(context: Context, folder: Path, work: Path) -> dict[str, Any]:
        from puna.tokens import Tokenizer
        from puna.tokens.pack import pack_documents
        from puna.tokens.stream import encode_conversations, padding_id

        tokenizer = Tokenizer.load(context.done["tokenizer"])
        shape = actual_shape(context)
        conversations = (row["messages"] for row in read_conversations(context.done[f"chat-{number}"] / "chat.jsonl"))
        return dict(pack_documents(encode_conversations(tokenizer, conversations), shape.context, folder,
                                   vocab_size=shape.vocab, split_long=False, pad_id=padding_id(tokenizer), progress=context.progress))  # fmt: skip

    return Stage(name, "turning conversations into rows of tokens", ("tokens",), (f"chat-{number}", "tokenizer"),
                 lambda context: {"context": actual_shape(context).context}, run)  # fmt: skip
