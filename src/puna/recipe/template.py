"""The commented recipe that `puna new` writes."""

from puna.recipe.load import toml_value


def commented_recipe(
    name: str, *, text: list[str], size: str, minutes: float, tune: bool, base: str | None = None
) -> str:  # fmt: skip
    """A recipe for `name` over the folders or files of `text` (the running Python when empty), every choice explained.

    `base`: open weights to start from; the size is then theirs.
    """
    sources = toml_value(text or ["python"])
    tuning = _TUNE if tune else _NO_TUNE
    model = _MODEL.format(size=toml_value(size)) if base is None else ""
    begin = _BASE.format(base=toml_value(base)) if base is not None else ""
    return _TEMPLATE.format(
        file=name,
        name=toml_value(name),
        sources=sources,
        minutes=f"{minutes:g}",
        tuning=tuning,
        model=model,
        base=begin,
    )


_TEMPLATE = """\
# A Puna recipe. `puna plan {file}.toml` says what will run; `puna make {file}.toml` builds it.
# What is not written here takes its default; `docs/recipe.md` lists every key.

name = {name}            # the run's folder: runs/{file}
# title = "My model"       # how the model calls itself
# seed = 1                 # unset: drawn fresh for a new run and kept in runs/{file}/recipe.toml

{base}[corpus]
# "python" is the documentation and source of the running Python. Files and folders of your own:
# text, Markdown, HTML, WARC, PDF, JSON lines, CSV, Parquet, .tar and .zip, plain or compressed; or hf:org/name.
# A crawl goes through every cleaning stage:  {{path = "crawl/", profile = "web"}}
sources = {sources}
# text_field = "text"      # the field of JSON, CSV and Parquet rows that holds the text; found when unset
# licence = "unstated"     # the licence of your text; it stands beside every document and in the model card
# heldout_share = 0.05     # kept for judging, by file or module; of a lone file, its end

# Stages for pages of the web; `docs/corpus.md` says what each does, `apply = "all"` or "off" changes to what.
# [corpus.language]
# keep = ["en", "zh"]
# [corpus.decontaminate]
# evals = ["evals/"]       # evaluation items that must not be trained on

{model}[train]
# One budget: minutes (turned into tokens once, by a calibration of seconds), tokens, or flops.
minutes = {minutes}
# method = "puna"          # "reference": plain AdamW with a cosine schedule, to compare
{tuning}
[judge]
# quiz_items = 300

[release]
# gate = true              # transformers must load the release and give the same numbers
# sign = "key.pem"         # sign it: docs/verify.md
"""

_MODEL = """\
[tokenizer]
# vocab_size = 4096        # unset: chosen with model.size

[model]
# One dial: parameters to aim at. It sets width, depth, vocabulary, context, batch and rates.
size = {size}
# context = 256            # any dimension can be set by hand: dim, layers, heads, kv_heads, ffn, context

"""

_BASE = """\
[base]
# Open weights: a folder as transformers writes it, a .gguf or llama2.c .bin file, or the name of a run. docs/base.md
from = {base}
# old = ["old.txt"]        # text like the base's own: what is forgotten is measured on a part of it
# replay = 0.1             # share of the training tokens that is old text
# extend = 4000            # entries that your text adds to the vocabulary
# layers = 48              # more layers than the base's: it grows; fewer: it is pruned
# context = 8192           # a longer context

"""

_TUNE = """
[[tune]]
kind = "sft"
# "docstrings": questions and answers made from the running Python's docstrings.
# Or a .jsonl of your own conversations: {"messages": [{"role": "user", "content": "..."}, ...]}
data = "docstrings"
minutes = 2
"""

_NO_TUNE = """
# [[tune]]                 # teach it to chat, with a .jsonl of your own conversations:
# data = "chat.jsonl"      # {"messages": [{"role": "user", "content": "..."}, ...]}
# epochs = 2
"""
