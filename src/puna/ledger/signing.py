"""The signature of a release: OpenSSF Model Signing with a key of one's own, offline.

Comes in: a release's folder and a key (PEM, an elliptic curve of NIST's). Goes out: `puna/model.sig`, a Sigstore bundle over the
digest of every other file. Must never happen: a signature taken for good by another key than the one given, or a file of the
release that it leaves out.

It proves that whoever holds the private key signed exactly these files. It does not prove when, or that what they say is true.
"""

import contextlib
import importlib.util
import io
import os
import re
from pathlib import Path
from typing import Any

from puna.errors import PunaError
from puna.ledger.release import SIGNATURE
from puna.reading import find_inside

_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # what the standard's bundles can name
_INSTALL = "pip install 'puna[sign]'"


def new_key(path: Path) -> Path:
    """Write a fresh private key (P-256, not encrypted, readable by its owner only) and `path.pub`; returns the latter's path.

    The same by hand: ``openssl ecparam -name prime256v1 -genkey -noout -out KEY; openssl ec -in KEY -pubout -out KEY.pub``.
    Raises `PunaError` where either file is there already.
    """
    _require()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_name(f"{path.name}.pub")
    for taken in (path, public):
        if taken.exists():
            raise PunaError(
                "is there already", where=str(taken), mend="name a new file: a lost key cannot be made again"
            )
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    shown = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(private)
        public.write_bytes(shown)
    except OSError as error:
        raise PunaError(f"cannot be written ({error.strerror})", where=str(path)) from error
    return public


def sign_release(folder: Path, private_key: Path) -> Path:
    """Sign every file of the release but the signature itself; returns the signature's path. Replaces an older one.

    Raises `PunaError` where the key cannot be used or the extra is not installed.
    """
    _require()
    from model_signing import signing

    _private(private_key)
    target = folder / SIGNATURE
    fresh = target.with_name(f".{target.name}.tmp")
    target.unlink(missing_ok=True)
    fresh.unlink(missing_ok=True)
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key).set_hashing_config(_hashing())
    signer.sign(folder, fresh)
    os.replace(fresh, target)
    return target


def sign_once(folder: Path, private_key: Path) -> Path:
    """`sign_release`, but where this key's signature holds already it stays: signing is random, a second build changes nothing."""
    _require()
    from cryptography.hazmat.primitives import serialization as form

    if (folder / SIGNATURE).is_file():
        public = _private(private_key).public_key()
        if _problem(folder, public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)) is None:
            return folder / SIGNATURE
    return sign_release(folder, private_key)


def signature_problem(folder: Path, public_key: Path) -> str | None:
    """What is wrong with the release's signature by this public key (PEM), or None.

    Raises `PunaError` where the key cannot be read, there is no signature, or the extra is not installed.
    """
    _require()
    if find_inside(folder, SIGNATURE) is None:
        raise PunaError("the release is not signed", where=str(folder / SIGNATURE))
    return _problem(folder, load_public(public_key))


def _problem(folder: Path, public_pem: bytes) -> str | None:
    import tempfile

    from model_signing import verifying

    with tempfile.NamedTemporaryFile(suffix=".pub") as stream:  # the library takes a key as a file only
        stream.write(public_pem)
        stream.flush()
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=stream.name).set_hashing_config(_hashing())
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints of older forms
                verifier.verify(folder, folder / SIGNATURE)
        except Exception as error:  # a bundle is a stranger's: whatever its reading raises, it is not a good signature
            return _told(error)
    return None


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Key mismatch" in text:
        return "it was made with another key"
    if "Signature mismatch" in text:
        changed = re.findall(r"Hash mismatch for '([^']*)'", text)
        others = re.findall(r"(Extra|Missing) files (?:found )?in model '[^']*': ([^\"]*)", text)
        named = [
            *(f"{name} was changed" for name in changed[:3]),
            *(f"{kind.lower()}: {names[:200]}" for kind, names in others),
        ]
        return f"it was made for other files: {'; '.join(named)}"
    return f"it does not hold ({text[:200] or type(error).__name__})"


def _hashing() -> Any:
    from model_signing import hashing

    # Git's files are no exception: whatever lies in the folder is signed, or the signature does not hold.
    return hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1).set_ignored_paths(
        paths=[SIGNATURE, f"{SIGNATURE.rpartition('/')[0]}/.model.sig.tmp"], ignore_git_paths=False
    )  # fmt: skip


def _private(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization as form

    try:
        key = form.load_pem_private_key(_bytes(path), None)
    except TypeError:
        raise PunaError(
            "the key is encrypted", where=str(path), mend="take the password off: openssl ec -in KEY -out PLAIN"
        ) from None
    except ValueError:
        raise PunaError(
            "is no private key (PEM)", where=str(path), mend="puna verify --new-key KEY makes one"
        ) from None
    _curve(key, path)
    return key


def load_public(path: Path) -> bytes:
    """The public key (PEM) in a file. Raises `PunaError` where it is none, or the extra is not installed."""
    _require()
    from cryptography.hazmat.primitives import serialization as form

    raw = _bytes(path)
    try:
        key = form.load_pem_public_key(raw)
    except ValueError:
        raise PunaError(
            "is no public key (PEM)", where=str(path), mend="openssl ec -in KEY -pubout -out KEY.pub"
        ) from None
    _curve(key, path)
    return raw


def _curve(key: Any, path: Path) -> None:
    if getattr(getattr(key, "curve", None), "name", None) not in _CURVES:
        raise PunaError(
            f"is no key of {', '.join(_CURVES)}", where=str(path), mend="puna verify --new-key KEY makes one"
        )


def _bytes(path: Path) -> bytes:
    from puna.reading import read_bytes

    return read_bytes(path, 1 << 20)


def _require() -> None:
    missing = [name for name in ("model_signing", "OpenSSL", "cryptography") if importlib.util.find_spec(name) is None]
    if missing:
        raise PunaError(f"signatures need {', '.join(missing)}", where="puna verify", mend=_INSTALL)
