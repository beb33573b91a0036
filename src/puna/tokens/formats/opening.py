"""Which tokenizer a path means, and the reader for its kind.

Comes in: a model folder, a tokenizer file or a model file. Goes out: a `Tokenizer`. Must never happen: a tokenizer guessed
where two would fit.
"""

from pathlib import Path

from puna.errors import PunaError
from puna.reading import find_inside, read_bytes, read_text
from puna.tokens.formats.llama2c import is_llama2c_tokenizer, read_llama2c_tokenizer
from puna.tokens.formats.sentencepiece_model import is_sentencepiece, read_sentencepiece
from puna.tokens.formats.tiktoken_ranks import is_tiktoken, read_tiktoken
from puna.tokens.formats.vocab_merges import read_vocab_merges
from puna.tokens.tokenizer import Tokenizer, parse_backend

_MAX_TOKENIZER_BIN = 8 << 20
_KINDS = "tokenizer.json, a SentencePiece or tiktoken tokenizer.model, vocab.json with merges.txt, llama2.c's tokenizer.bin, or a .gguf"


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer at `path`: a file of any kind that is read, a model folder, or the one that belongs to a model file.

    In a folder tokenizer.json counts first, then tokenizer.model, vocab.json with merges.txt, llama2.c's tokenizer.bin (or the
    one tok*.bin there is), and the one .gguf. Beside a llama2.c model: its tokenizer.bin, the one tok*.bin, or any of the
    others. Raises `PunaError` where there is none, or several of a kind.
    """
    path = Path(path)
    if path.is_dir():
        found = _in_folder(path, model=None)
        if found is None:
            raise PunaError("holds no tokenizer", where=str(path), mend=f"what is read: {_KINDS}")
        return found
    if not path.exists():
        raise PunaError("no such file", where=str(path))
    match path.suffix.lower():
        case ".json" if path.name == "vocab.json":
            return read_vocab_merges(path.parent)
        case ".json" if path.name == "tokenizer.json":
            return Tokenizer.load(path.parent)
        case ".json":
            return Tokenizer(parse_backend(read_text(path), str(path)))
        case ".txt" if path.name == "merges.txt":
            return read_vocab_merges(path.parent)
        case ".model" | ".tiktoken":
            return _pieces_or_ranks(path)
        case ".gguf":
            return _gguf(path)
        case ".bin":
            return _bin(path)
    raise PunaError("is no kind of tokenizer that is read", where=str(path), mend=f"what is read: {_KINDS}")


def _in_folder(folder: Path, model: Path | None) -> Tokenizer | None:
    """The folder's tokenizer; of a llama2.c `model` in it the tokenizer.bin comes first."""
    bins = _bins(folder, model)
    if model is not None and len(bins) == 1:
        return read_llama2c_tokenizer(bins[0])
    if find_inside(folder, "tokenizer.json"):
        return Tokenizer.load(folder)
    if pieces := find_inside(folder, "tokenizer.model"):
        return _pieces_or_ranks(pieces)
    if find_inside(folder, "vocab.json"):
        return read_vocab_merges(folder)
    if len(bins) > 1:
        raise PunaError(f"holds {len(bins)} tokenizers ({', '.join(file.name for file in bins[:5])})", where=str(folder),
                        mend="name the one that is meant tokenizer.bin")  # fmt: skip
    if bins:
        return read_llama2c_tokenizer(bins[0])
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if len(ggufs) == 1 and (file := find_inside(folder, ggufs[0])):
        return _gguf(file)
    return None


def _bins(folder: Path, model: Path | None) -> list[Path]:
    """The llama2.c tokenizers of a folder: tokenizer.bin where there is one, else every tok*.bin."""
    if named := find_inside(folder, "tokenizer.bin"):
        return [named]
    names = sorted(file.name for file in folder.glob("tok*.bin") if model is None or file.name != model.name)
    return [file for name in names if (file := find_inside(folder, name)) is not None]


def _pieces_or_ranks(path: Path) -> Tokenizer:
    with open(path, "rb") as stream:
        head = stream.read(1 << 12)
    if is_tiktoken(head):
        return read_tiktoken(path)
    if is_sentencepiece(head):
        return read_sentencepiece(path)
    raise PunaError("is neither a SentencePiece model nor tiktoken's ranks", where=str(path))


def _bin(path: Path) -> Tokenizer:
    """A tokenizer.bin, or the tokenizer of the llama2.c model that the file is."""
    if path.name.startswith("tok"):
        return read_llama2c_tokenizer(path)
    if path.stat().st_size <= _MAX_TOKENIZER_BIN and is_llama2c_tokenizer(read_bytes(path)):
        return read_llama2c_tokenizer(path)
    found = _in_folder(path.parent, path)
    if found is None:
        raise PunaError(
            "has no tokenizer beside it", where=str(path), mend="put its tokenizer.bin into the same folder"
        )
    return found


def _gguf(path: Path) -> Tokenizer:
    from puna.tokens.formats.gguf import read_gguf_tokenizer

    return read_gguf_tokenizer(path)
