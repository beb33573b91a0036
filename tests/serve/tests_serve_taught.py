"""Two tiny models that know a few conversations by heart: what they answer is known, and part of it is hostile.

In: a folder. Out: a model folder like any release. They are trained here, in seconds, so that the reply on the page is really a model's.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from puna.model.config import ModelConfig
from puna.model.decoder import Decoder
from puna.model.formats import save_model
from puna.tokens import Tokenizer, train_tokenizer
from puna.tokens.chat import render

HOSTILE = '<script>window.__pwned = 1</script><img src=x onerror="window.__pwned = 1"> [x](javascript:alert(1))'
CODE = "It **splits** at spaces:\n\n```python\nprint('a b'.split())\n```\n\n- one\n- two"
GRASS = "羊驼吃**高原**上的草。\n\n1. 早上吃\n2. 晚上睡"
LONG = " ".join(f"{number} llamas walk." for number in range(1, 16))
TALKS = {
    "What does str.split do?": CODE,
    "羊驼吃什么？": GRASS,
    "Say something hostile": HOSTILE,
    "Count": LONG,
    "Hello": "Good day. I am the first model.",
    "你好": "你好！我是第一个模型。",
}
STORY, STORY_END = "Once upon a time", " there was a llama. 从前有一只羊驼。"
SECOND = {
    "Hello": "Good day. I am the other one.",
    "What does str.split do?": "It makes a list.",
    "你好": "你好！我是另一个。",
}
SHAPE = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 16, "tie_word_embeddings": False, "qk_norm": True}  # fmt: skip
_STEPS = 400
_GOOD = 0.02  # nats a token: below, greedy decoding says every reply letter by letter


def taught(folder: Path, talks: dict[str, str], *, chats: bool = True, seed: int = 5, context: int = 1024) -> Path:
    """A model that answers each key of `talks` with its value. `chats=False`: it goes on from the key as a plain text."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(iter([f"{one}\n{other}\nuser\nassistant\n" for one, other in talks.items()] * 3), 480, folder)
    tokens = Tokenizer.load(folder)
    config = ModelConfig(
        vocab_size=tokens.vocab_size,
        eos_token_id=tokens.eos_id,
        pad_token_id=tokens.pad_id,
        max_position_embeddings=context,
        **SHAPE,
    )
    model = Decoder(config)
    model.init_weights(seed=seed)
    rows = [_chat(tokens, one, other) if chats else _text(tokens, one + other) for one, other in talks.items()]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
    learned = torch.tensor([mask + [False] * (length - len(mask)) for _, mask in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20) * (1 - step / _STEPS)
        logits = model.logits(model(ids[:, :-1]))
        loss = F.cross_entropy(logits[learned[:, 1:]], ids[:, 1:][learned[:, 1:]])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if loss.item() < _GOOD:
            break
    else:
        raise RuntimeError(f"the tiny model did not learn its lines: {loss.item():.3f} nats a token")
    save_model(model, config, folder)
    if not chats:
        tokens.chat_template = None
        tokens.save(folder, context=context)
    return folder


def _chat(tokens: Tokenizer, user: str, reply: str) -> tuple[list[int], list[bool]]:
    made = render(tokens, [{"role": "user", "content": user}, {"role": "assistant", "content": reply}])
    return made.ids, made.loss


def _text(tokens: Tokenizer, text: str) -> tuple[list[int], list[bool]]:
    if tokens.eos_id is None:
        raise RuntimeError("the tiny tokenizer has no end of text")
    ids = [*tokens.encode(text), tokens.eos_id]
    return ids, [True] * len(ids)
