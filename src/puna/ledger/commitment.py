"""The seed's commitment: the maker is bound to a seed before training, and shows it afterwards.

Comes in: a seed and a random salt. Goes out: a SHA-256 that tells nothing about the seed until both are revealed.
Must never happen: two (salt, seed) pairs that give the same bytes to hash, so the salt has a fixed length.
"""

import hashlib
import hmac
import secrets

from puna.errors import PunaError

SALT_BYTES = 32  # a seed has at most 63 bits and could be guessed; a 256-bit salt cannot


def new_salt() -> str:
    """A fresh random salt: 32 bytes from the operating system, as 64 hex digits."""
    return secrets.token_hex(SALT_BYTES)


def seed_commitment(seed: int, salt: str) -> str:
    """SHA-256 (hex) of salt || seed: the salt's 32 bytes, then the seed in decimal ASCII.

    Check it by hand: ``(printf SALT | xxd -r -p; printf SEED) | sha256sum``.
    Raises `PunaError` for a negative seed or a salt that is not 64 hex digits.
    """
    if seed < 0:
        raise PunaError(f"the seed {seed} is negative", where="seed")
    return hashlib.sha256(_raw(salt) + str(seed).encode("ascii")).hexdigest()


def order_commitment(salt: str, order: bytes) -> str:
    """SHA-256 (hex) of the salt's 32 bytes, then the order in which rows are read: their numbers as little-endian 64-bit.

    The salt is the seed's, so that nobody can try seeds against it before they are revealed.
    """
    return hashlib.sha256(_raw(salt) + order).hexdigest()


def check_seed(commitment: str, seed: int, salt: str) -> None:
    """Raise `PunaError` unless `commitment` was made from this seed and salt."""
    if not hmac.compare_digest(seed_commitment(seed, salt), commitment.lower()):
        raise PunaError(f"the revealed seed {seed} is not the one that was committed to", where="seed commitment")


def _raw(salt: str) -> bytes:
    try:
        raw = bytes.fromhex(salt)
    except ValueError:
        raw = b""
    if len(raw) != SALT_BYTES or len(salt) != 2 * SALT_BYTES:
        raise PunaError(f"the salt is not {2 * SALT_BYTES} hex digits", where="salt")
    return raw
