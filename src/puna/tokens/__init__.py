"""Tokenizer training, the chat format, documents to packed rows to batches.

Texts come in; ids, packed rows and (from `puna.tokens.loader`, the only file here that needs torch) batches go out.
Must never happen: a user's text that turns into a control token, or a training target that crosses two documents.
"""

from puna.tokens.export import write_tokenizer
from puna.tokens.hard import HARD_STRINGS, roundtrip_failures
from puna.tokens.special import SPECIALS
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.train import train_tokenizer

__all__ = ["HARD_STRINGS", "SPECIALS", "Tokenizer", "roundtrip_failures", "train_tokenizer", "write_tokenizer"]
