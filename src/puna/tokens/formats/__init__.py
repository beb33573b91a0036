"""Tokenizers on disk, of every kind that LLaMA models come with: `open_tokenizer`.

Comes in: a model folder, a tokenizer file or a model file. Goes out: a `Tokenizer`. Must never happen: ids that differ
from those the model was trained with, or a file read that lies outside the folder it is named in.
"""

from puna.tokens.formats.opening import open_tokenizer

__all__ = ["open_tokenizer"]
