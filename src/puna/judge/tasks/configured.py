"""lm_eval's task class for rows that are finished: its own, but for which examples an item gets.

Comes in: a configuration without templates. Goes out: prompts as lm_eval builds them. Must never happen: an item among its own
examples, or examples that change when fewer items are asked. This module imports lm_eval: import it inside functions only.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask

from puna.judge.tasks.patterns import MOST_MATCHED


class FinishedTask(ConfigurableTask):
    """A ConfigurableTask whose texts are the rows' fields."""

    sampler: Any
    _drawn: list[list[int]] | None = None  # of each item (by its place in the file) the places of its examples

    def draw(self, items: int, firsts: Sequence[int], *, from_items: bool) -> None:
        """Draws the examples of all items at once, with lm_eval's sampler, as it would for a run over all of them.

        `firsts`: of each of the pool the place of its first equal. `from_items`: the pool is the items themselves, and neither an
        item nor its equal is drawn for it.
        """
        numbers = [{"place": place} for place in firsts]
        sampler = ContextSampler(numbers)
        sampler.rnd = self.sampler.rnd
        self._drawn = [
            [
                one["place"]
                for one in sampler.sample(self.config.num_fewshot, eval_doc=numbers[place] if from_items else None)
            ]
            for place in range(items)
        ]
        self.sampler = _Drawn(list(self.sampler.df))

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **options: Any) -> Any:
        """lm_eval's prompt of an item, with the item's own draw of examples. ([context, ...] where there are several contexts)"""
        if self._drawn is not None:
            self.sampler.places = self._drawn[doc["place"]]
        return super().fewshot_context(doc, num_fewshot, **options)

    def apply_filters(self) -> Any:
        """lm_eval's filters, over the first MOST_MATCHED characters of what a model wrote: patterns take the square of its length."""
        if self.config.output_type == "generate_until":
            for instance in self._instances:
                instance.resps = [one[:MOST_MATCHED] if isinstance(one, str) else one for one in instance.resps]
        return super().apply_filters()

    def set_fewshot_seed(self, seed: int | None = None) -> None:
        """The draw was made when the task was built, by the seed given there."""


class _Drawn(ContextSampler):
    """Gives the examples that were drawn for the item at hand."""

    places: list[int]

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **options: Any) -> list[dict[str, Any]]:
        return [self.df[place] for place in self.places[:n]]
