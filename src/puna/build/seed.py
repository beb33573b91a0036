"""A run's seed: drawn once, committed to before anything is trained, revealed when the training is over.

Comes in: the recipe, the run's frozen recipe, the ledger. Goes out: the seed. Must never happen: a seed drawn twice for one
run, or a release whose ledger holds a commitment that nobody can open.
"""

import secrets
from pathlib import Path

from puna.files import read_json, write_json
from puna.ledger import Ledger, new_salt, seed_commitment
from puna.recipe.load import load_recipe
from puna.recipe.schema import Recipe

SEED = "seed.json"


def settle_seed(recipe: Recipe, frozen: Path, ledger: Ledger) -> int:
    """The recipe's seed, else the one drawn before, else a fresh one; the ledger holds a commitment to it afterwards."""
    path = frozen.with_name(SEED)
    stored = read_json(path) if path.is_file() else None
    drawn = stored["seed"] if stored else load_recipe(frozen).seed if frozen.is_file() else None
    seed = recipe.seed if recipe.seed is not None else drawn if drawn is not None else secrets.randbits(48)
    if stored is None or stored["seed"] != seed:
        stored = {"seed": seed, "salt": new_salt()}
        write_json(path, stored)
    commitment = seed_commitment(seed, stored["salt"])
    if not any(entry["kind"] == "seed" and entry["body"]["commitment"] == commitment for entry in ledger.entries()):
        ledger.append(
            "seed", {"commitment": commitment, "how": "sha256 of salt and seed; both are revealed after training"}
        )
    return int(seed)


def salt_of(run: Path) -> str:
    """The salt of the run's commitment; secret until the seed is revealed."""
    return str(read_json(run / SEED)["salt"])


def reveal_seed(ledger: Ledger) -> None:
    """Write seed and salt into the ledger, once."""
    ledger.append_once("seed-revealed", read_json(ledger.path.with_name(SEED)))
