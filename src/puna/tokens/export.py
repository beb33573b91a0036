"""The tokenizer files of a release, as `transformers` reads them with no code of ours.

Comes in: a tokenizer folder of ours. Goes out: tokenizer.json, tokenizer_config.json and, for chat, chat_template.jinja.
Must never happen: an end of sequence that the model was not trained to emit, or a token added to a user's text.
"""

import shutil
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.files import atomic_file, read_json, write_json
from puna.tokens.chat import CHAT_TEMPLATE
from puna.tokens.special import END_OF_TEXT, IM_END, IM_START, PAD, SPECIALS
from puna.tokens.tokenizer import Tokenizer


def write_tokenizer(source: Path, out: Path, *, chat: bool, context: int | None = None) -> None:
    """Copy a tokenizer from `source` into the model folder `out` and write its settings.

    `chat`: the end of sequence is `<|im_end|>` and the chat template is written; else the document end and none.
    `context`: the model's longest input in tokens.
    Raises `PunaError` where a foreign tokenizer has not the tokens of a chat's turns.
    """
    tokenizer = Tokenizer.load(source)
    if [tokenizer.eos_id, tokenizer.im_start_id, tokenizer.im_end_id, tokenizer.pad_id] != list(range(len(SPECIALS))):
        _write_foreign(tokenizer, source, out, chat=chat, context=context)
        return
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "tokenizer.json") as stream, open(source / "tokenizer.json", "rb") as original:
        shutil.copyfileobj(original, stream)
    write_config(out, chat=chat, context=context, template=chat)


def _write_foreign(tokenizer: Tokenizer, source: Path, out: Path, *, chat: bool, context: int | None) -> None:
    """A base's tokenizer keeps what it is; tuned to chat here, it gets our turns and our template."""
    if chat and None in (tokenizer.im_start_id, tokenizer.im_end_id):
        raise PunaError(f"has no {IM_START} and {IM_END}", where=str(source), mend="extend its vocabulary by them")
    tokenizer.save(out, context=context)
    (out / "chat_template.jinja").unlink(missing_ok=True)
    config = read_json(out / "tokenizer_config.json")
    config.pop("chat_template", None)
    if chat:
        template = ("{{- bos_token -}}\n" if tokenizer.adds_bos else "") + CHAT_TEMPLATE
        config |= {"eos_token": IM_END, "chat_template": template}
        with atomic_file(out / "chat_template.jinja") as stream:
            stream.write(template.encode())
    write_json(out / "tokenizer_config.json", config)


def write_config(out: Path, *, chat: bool, context: int | None, template: bool) -> None:
    """tokenizer_config.json and chat_template.jinja (removed where `template` is false)."""
    config: dict[str, Any] = {
        # The one class that transformers 4 and 5 both read as "take tokenizer.json as it stands".
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": IM_END if chat else END_OF_TEXT,
        "pad_token": PAD,
        "unk_token": None,
        "additional_special_tokens": [name for name in (END_OF_TEXT, IM_START, IM_END)
                                      if name != (IM_END if chat else END_OF_TEXT)],
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,  # else decoding drops spaces before punctuation
        "padding_side": "left",  # generation goes on at the right end
    }  # fmt: skip
    if context is not None:
        config["model_max_length"] = context
    if template:
        config["chat_template"] = CHAT_TEMPLATE
        with atomic_file(out / "chat_template.jinja") as stream:
            stream.write(CHAT_TEMPLATE.encode())
    else:
        (out / "chat_template.jinja").unlink(missing_ok=True)
    write_json(out / "tokenizer_config.json", config)
