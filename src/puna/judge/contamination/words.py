"""What a contamination check can and cannot show, in sentences for people.

Comes in: counts and figures. Goes out: plain sentences. Must never happen: a suspicion told as a proof, or a proof without what it
leaves open.
"""

from collections.abc import Mapping

EXACT = (
    "An item that is flagged stood word for word in the model's own training text: that it was there is certain, that it was learnt is "
    "not. An item that is not flagged may still have been there in other words or in another language."
)
SPLIT = (
    "A difference between clean and dirty items may come from the items: what is copied often may be easier. A control model that never "
    "saw them, asked the same items, shows how much of it does."
)
LIKELIHOOD = (
    "Likelihoods show that a model finds these texts more expected than others, not that it read them. Where both kinds of text are of "
    "one sort, such tests have come out near chance even for text known to have been read once (Duan et al. 2024, arXiv 2402.07841); "
    "where they are not, the difference between the sorts counts too. A result near 0.5 clears nobody."
)
SHUFFLED = (
    "The items were compared with themselves, their words shuffled: every model finds the shuffled ones less expected, so the number "
    "tells something only beside that of a model that has not read them."
)
TWIN = (
    "The model's score on a task is compared with what its score on a twin of the task leads one to expect, by models that serve as "
    "references. A gap shows that the score does not carry over to the twin, not why: contamination, training for the task's form, and "
    "a twin that is harder for this model alone look the same. If the references are contaminated as well, the gap is too small."
)
OUTSIDE = "The model's score on the twin lies outside those of the references, so what one should expect of it on the task is not known."


def few_references(count: int, least: int) -> str:
    """Why no p-value is given."""
    said = f"{count} reference model{'' if count == 1 else 's'} cannot show how far a model may lie from the line by chance: {least} are needed."
    return f"{said} {TWIN}"


def few_items(count: int) -> str:
    """Why no p-value is given."""
    return f"{count} independent items are too few to draw from. {TWIN}"


def own_text(counts: Mapping[str, int], looked: bool) -> str:
    """What the scan of a model's own training text found."""
    if not looked:
        return "The text that this model was trained on is not known here, so no item was looked for."
    said = (
        f"Of {_items(counts['items'])}, {counts['contaminated']:,} stand in the model's own training text as good as whole, "
        f"{counts['touched']:,} in part, {counts['clean']:,} not at all."
    )
    if counts["undecidable"]:
        said += f" {_items(counts['undecidable'])} {_are(counts['undecidable'])} too short or too formulaic to be looked for."
    if counts["unknown"]:
        said += f" {_items(counts['unknown'])} may stand in text that the ledger names and that is not here."
    return f"{said} {EXACT}"


def inherited(parent: str, contaminated: int | None, items: int | None) -> str:
    """What a model's base brings along. None: nobody has looked."""
    if contaminated is None or items is None:
        return f"The model was started from {parent}; what stood in that model's training text is not known, and what it learnt there came along."
    return f"The model was started from {parent}, in whose training text {contaminated:,} of {_items(items)} stand: what was learnt there came along."


def _items(count: int) -> str:
    return f"{count:,} item" if count == 1 else f"{count:,} items"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
