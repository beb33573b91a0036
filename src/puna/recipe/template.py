"""The commented recipe that `puna new` writes."""

from puna.recipe.load import toml_value


def commented_recipe(name: str, *, text: list[str], size: str, minutes: float, tune: bool) -> str:
    """A recipe for `name` over the folders or files of `text` (the running Python when empty), every choice explained."""
    sources = toml_value(text or ["python"])
    tuning = _TUNE if tune else _NO_TUNE
    return _TEMPLATE.format(
        file=name, name=toml_value(name), sources=sources, size=toml_value(size), minutes=f"{minutes:g}", tuning=tuning
    )


_TEMPLATE = """\
# A Puna recipe. `puna plan {file}.toml` says what will run; `puna make {file}.toml` builds it.
# What is not written here takes its default; `docs/recipe.md` lists every key.

name = {name}            # the run's folder: runs/{file}
# title = "My model"       # how the model calls itself
# seed = 1                 # unset: drawn fresh for a new run and kept in runs/{file}/recipe.toml

[corpus]
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

[tokenizer]
# vocab_size = 4096        # unset: chosen with model.size

[model]
# One dial: parameters to aim at. It sets width, depth, vocabulary, context, batch and rates.
size = {size}
# context = 256            # any dimension can be set by hand: dim, layers, heads, kv_heads, ffn, context

[train]
# One budget: minutes (turned into tokens once, by a calibration of seconds), tokens, or flops.
minutes = {minutes}
# method = "puna"          # "reference": plain AdamW with a cosine schedule, to compare
{tuning}
[judge]
# quiz_items = 300

[release]
# gate = true              # transformers must load the release and give the same numbers
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
