"""The record of how a model came to be: a hash-chained log, commitments, a release's last entry, its signature. Imports no torch."""

from puna.ledger.chain import Entry, Ledger, Verified, verify
from puna.ledger.commitment import check_seed, new_salt, order_commitment, seed_commitment

__all__ = ["Entry", "Ledger", "Verified", "check_seed", "new_salt", "order_commitment", "seed_commitment", "verify"]
