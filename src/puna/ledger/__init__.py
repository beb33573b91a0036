"""The record of how a model came to be: a hash-chained log and the seed's commitment. Imports no torch."""

from puna.ledger.chain import Entry, Ledger, Verified, verify
from puna.ledger.commitment import check_seed, new_salt, seed_commitment

__all__ = ["Entry", "Ledger", "Verified", "check_seed", "new_salt", "seed_commitment", "verify"]
