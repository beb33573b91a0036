"""The models that judge documents, trained in the pipeline: perplexity, quality, topics, coherence, safety.

Comes in: samples of the cleaned documents, and the user's own examples. Goes out: the shelf "scorers": a file for each model, and
what is known of it. Must never happen: a stage left out without a word. What cannot be learned from this text is said in `notes`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.corpus import samples
from puna.corpus.cleaning import SHELF as CLEAN
from puna.corpus.coherence import Coherence
from puna.corpus.context import Setting, applies
from puna.corpus.perplexity import Perplexity
from puna.corpus.quality import Quality
from puna.corpus.safety import OPTIONAL, Safety
from puna.corpus.samples import Sample
from puna.corpus.tables import Without
from puna.corpus.topics import Topics
from puna.errors import PunaError
from puna.progress import Progress
from puna.recipe.corpus import Apply

SHELF, PART = "scorers", "all"
_SAMPLE_CHARS = 6_000_000  # of each kind of sample: seconds of one core
_SMALLEST_TOPIC = 30  # documents of the sample for each cluster, where the recipe names no number
_MOST_TOPICS = 64


@dataclass(frozen=True)
class Scorers:
    """The trained models; None for what does not apply or could not be learned."""

    perplexity: Perplexity | None
    quality: Quality | None
    topics: Topics | None
    coherence: Coherence | None
    safety: Safety | None


def load_scorers(setting: Setting) -> Scorers:
    """The models of the shelf."""
    shelf = setting.shelf(SHELF)
    made = shelf.facts(PART)["made"]

    def path(name: str) -> Path:
        return shelf.file(PART, f"{name}.npz")

    topics = Topics.load(path("topics")) if "topics" in made else None
    return Scorers(
        Perplexity.load(path("perplexity")) if "perplexity" in made else None,
        Quality.load(path("quality")) if "quality" in made else None,
        topics,
        Coherence.load(path("coherence"), topics) if topics and "coherence" in made else None,
        Safety.load(path("safety")) if "safety" in made else None,
    )


class _School:
    """The training of the models in turn, each from its samples."""

    def __init__(self, setting: Setting, folder: Path, keep: Without) -> None:
        self.setting, self.config, self.folder, self.keep = setting, setting.config, folder, keep
        self.made: list[str] = []
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.topics: Topics | None = None

    def sample(self, wanted: Callable[[dict[str, Any]], bool], *, passages: bool = False) -> Sample:
        return samples.take(self.setting.shelf(CLEAN), _SAMPLE_CHARS, wanted, self.keep, passages=passages)

    def asked(self, apply: Apply) -> Sample:
        """Documents that a stage would judge."""
        return self.sample(lambda row: applies(apply, row))

    def examples(self, paths: list[str]) -> Sample:
        """The user's examples, or passages of the curated sources."""
        if paths:
            sample = samples.of_files(paths, self.config.text_field, _SAMPLE_CHARS)
            if not len(sample):
                raise PunaError("holds no text to learn from", where=", ".join(paths), mend="name other examples")
            return sample
        return self.sample(lambda row: not row["web"] and row["kind"] == "text", passages=True)

    def teach(self, name: str, train: Callable[[], Any]) -> None:
        """Run one training and save its model; a refusal for want of text becomes a note. A file's mistake names the file."""
        try:
            model = train()
        except PunaError as error:
            if error.where is not None:
                raise
            self.notes.append(f"{name}: nothing is judged by it: {error.what}")
            return
        if model is not None:
            model.save(self.folder / f"{name}.npz")
            self.made.append(name)

    def perplexity(self) -> Perplexity:
        reference = self.examples(self.config.perplexity.reference)
        self.facts["perplexity"] = {"reference": len(reference)}
        return Perplexity.train(reference.texts, reference.langs)

    def quality(self) -> Quality:
        good, crawl = self.examples(self.config.quality.good), self.asked(self.config.quality.apply)
        model, facts = Quality.train(good.texts, good.langs, crawl.texts, crawl.langs)
        self.facts["quality"] = {**facts, "good": len(good), "crawl": len(crawl)}
        return model

    def topic(self) -> Topics:
        sample = self.asked(self.config.topics.apply)
        most = len(sample) // _SMALLEST_TOPIC
        clusters = self.config.topics.clusters or max(2, min(_MOST_TOPICS, most, round(math.sqrt(len(sample) / 2))))
        self.topics = Topics.train(sample.texts, sample.langs, clusters)
        labelled = {word for words in self.topics.labels for word in words}
        for word in self.config.topics.weights:
            if word.lower() not in labelled:
                self.notes.append(f"topics: no cluster is labelled {word!r}, so its weight says nothing")
        self.facts["topics"] = {"labels": self.topics.labels, "sample": self.topics.sizes}
        return self.topics

    def coherence(self) -> Coherence:
        if self.topics is None:
            raise PunaError("it needs the topics, and there are none")
        sample = self.asked(self.config.coherence.apply)
        return Coherence.train(sample.texts, sample.langs, self.topics)

    def safety(self) -> Safety:
        sample = self.asked(self.config.safety.apply)
        config = self.config.safety
        also = [category for category in config.drop if category in OPTIONAL]
        model, facts = Safety.train(sample.texts, sample.langs, words=config.words, also=also)
        self.facts["safety"] = facts
        return model


def train_scorers(setting: Setting, keep: Without, progress: Progress) -> None:
    """Train what the recipe asks for and put it on the shelf, if it is not there; say what cannot be learned."""
    shelf, config = setting.shelf(SHELF), setting.config
    if shelf.has(PART):
        return
    asked: list[tuple[str, Apply, str]] = [
        ("perplexity", config.perplexity.apply, "perplexity"), ("quality", config.quality.apply, "quality"),
        ("topics", config.topics.apply, "topic"), ("coherence", config.coherence.apply, "coherence"),
        ("safety", config.safety.apply, "safety"),
    ]  # fmt: skip
    facts: dict[str, Any] = {}
    with shelf.writing(PART, facts) as folder:
        school = _School(setting, folder, keep)
        for name, apply, method in asked:
            if apply == "off" or not _any(setting, apply):
                continue
            progress.start(f"learning {name}")
            school.teach(name, getattr(school, method))
            progress.finish()
        facts |= {"made": school.made, "notes": school.notes, "facts": school.facts}
    for note in facts["notes"]:
        progress.note(f"  {note}")


def _any(setting: Setting, apply: Apply) -> bool:
    """Whether any document is of those that a stage with this `apply` looks at."""
    shelf = setting.shelf(CLEAN)
    return any(shelf.facts(part)["web" if apply == "web" else "prose"] for part in shelf.names())
