"""The export gate: what must hold before a model may leave the house.

Comes in: a release folder. Goes out: one row a check, with its figure. Must never happen: a check that passes because
its tool is missing.
"""

import os
from pathlib import Path
from typing import Any

from puna.build.graph import Context
from puna.errors import PunaError

LOGIT_TOLERANCE = 1e-4  # largest difference in fp32; of the largest logit, where that is above 1
CONVERSATION = [
    {"role": "system", "content": "You answer in one line."},
    {"role": "user", "content": "What does str.split do?"},
    {"role": "assistant", "content": "It splits a string 🦙 into parts."},
    {"role": "user", "content": "你好\n"},
]


def check_tools() -> None:
    """Raise `PunaError` where the gate's loader is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise PunaError("the export gate needs transformers", where="release.gate",
                        mend="pip install 'transformers>=5.3,<6', or --set release.gate=false") from error  # fmt: skip


def check_release(folder: Path, base: Path | None, context: Context) -> list[dict[str, Any]]:
    """Run every check on the release's model (and on the base model beside it). Never raises for a check that fails."""
    check_tools()
    rows = [_same_logits("", folder)]
    if base is not None:
        rows.append(_same_logits("base: ", base))
    rows += [_special_tokens_agree(folder), _hard_strings(folder, context.done.get("base"))]
    if context.recipe.tune:
        rows.append(_template_renders_the_same(folder))
    rows.append(_greedy_stops(folder))
    return rows


def _row(check: str, passed: bool, value: str) -> dict[str, Any]:
    return {"check": check, "passed": passed, "value": value}


def _quiet_transformers() -> None:
    """No network, and none of its bars and hints on our screen: the gate's rows say what it found."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _foreign_tokenizer(folder: Path) -> Any:
    _quiet_transformers()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _foreign_model(folder: Path) -> Any:
    _quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _same_logits(prefix: str, folder: Path) -> dict[str, Any]:
    """transformers loads the folder with no code of ours and computes the same numbers."""
    import torch

    from puna.model.formats import load_model

    ours = load_model(folder).eval()
    generator = torch.Generator().manual_seed(0)
    length = min(128, ours.config.max_position_embeddings)
    ids = torch.randint(0, ours.config.vocab_size, (2, length), generator=generator)
    with torch.inference_mode():
        logits = ours.logits(ours(ids))
        del ours  # one model in memory at a time
        theirs = _foreign_model(folder)
        difference = (logits - theirs(ids).logits).abs().max().item()
    allowed = LOGIT_TOLERANCE * max(1.0, logits.abs().max().item())
    name = f"{prefix}{type(theirs).__name__} of transformers gives the same logits"
    return _row(name, difference <= allowed, f"largest difference {difference:.2g} (allowed {allowed:.2g})")


def _special_tokens_agree(folder: Path) -> dict[str, Any]:
    from transformers import AutoConfig, GenerationConfig

    tokenizer, config = _foreign_tokenizer(folder), AutoConfig.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    agree = (
        tokenizer.eos_token_id in ends
        and config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
        and config.bos_token_id == generation.bos_token_id == tokenizer.bos_token_id
        and (not tokenizer.chat_template or f"{tokenizer.eos_token}" in tokenizer.chat_template)
    )
    value = f"bos {tokenizer.bos_token_id}, eos {tokenizer.eos_token_id} in {ends}, pad {tokenizer.pad_token_id}"
    return _row("bos, eos and pad agree between tokenizer, config, generation config and template", bool(agree), value)


def _hard_strings(folder: Path, base: Path | None) -> dict[str, Any]:
    """Emoji, Chinese, control characters and special-token text come back as they were, in ours and in transformers'.

    What an inherited tokenizer could not spell before it cannot now: it counts only where the base did better.
    """
    from puna.tokens import HARD_STRINGS

    failures = _not_returned(folder)
    inherited = _not_returned(base) if base is not None else set()
    told = "; ".join(sorted(failures - inherited)) or f"{len(HARD_STRINGS)} strings"
    if both := sorted(failures & inherited):
        told += f", but for what the base's tokenizer cannot spell: {', '.join(both)}"
    return _row("hard strings survive the round trip", not failures - inherited, told)


def _not_returned(folder: Path) -> set[str]:
    """The hard strings that do not come back, as they are told."""
    from puna.tokens import HARD_STRINGS, Tokenizer, roundtrip_failures

    foreign = _foreign_tokenizer(folder)
    failures = {ascii(failure["text"][:40]) for failure in roundtrip_failures(Tokenizer.load(folder), HARD_STRINGS)}
    for text in HARD_STRINGS:
        ids = foreign.encode(text, add_special_tokens=False, split_special_tokens=True)
        if foreign.decode(ids, clean_up_tokenization_spaces=False) != text:
            failures.add(f"transformers: {text[:40]!a}")
    return failures


def _template_renders_the_same(folder: Path) -> dict[str, Any]:
    from puna.tokens import Tokenizer
    from puna.tokens.chat import render

    ours = render(Tokenizer.load(folder), CONVERSATION, add_generation_prompt=True).ids
    theirs = _foreign_tokenizer(folder).apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)
    return _row("the chat template renders to the ids we train on", list(ours) == list(theirs), f"{len(ours)} ids")


def _greedy_stops(folder: Path) -> dict[str, Any]:
    """Greedy generation by transformers ends by itself or at its limit, and says what ours says."""
    import torch

    from puna.engine import Engine, Sampling
    from puna.tokens.chat import render

    engine = Engine.load(folder, "cpu")  # where transformers computes: a near tie must not depend on the place
    limit = min(64, engine.config.max_position_embeddings // 2)
    if engine.tokenizer.chat_template:
        prompt = list(render(engine.tokenizer, CONVERSATION[1:2], add_generation_prompt=True).ids)
    else:
        prompt = engine.tokenizer.encode("def ")
    ours = engine.complete([prompt], Sampling(max_tokens=limit, temperature=0.0))[0]
    model = _foreign_model(folder)
    with torch.inference_mode():
        out = model.generate(torch.tensor([prompt]), max_new_tokens=limit, do_sample=False)[0, len(prompt):].tolist()  # fmt: skip
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    theirs = out[:-1] if out and out[-1] in ends else out
    stopped = len(theirs) < limit
    return _row("greedy generation ends where ours does, with the same text", theirs == list(ours.ids) and len(out) <= limit,
                f"{len(theirs)} tokens, {'ended by itself' if stopped else 'ended at the limit'}")  # fmt: skip
