"""Signatures: which tasks this user has run, so that a run of somebody else is not trusted."""

from __future__ import annotations

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path


def sign(text: str) -> str:
    """Return the signature of a text with the key of this user. The first call creates the key.

    Returns:
        The signature, or an empty string if the key can be neither read nor written.
    """
    key = _key()
    return hmac.new(key, text.encode(), "sha256").hexdigest() if key else ""


def is_signed(text: str, signature: object) -> bool:
    """Return whether this user has signed a text."""
    return isinstance(signature, str) and signature != "" and hmac.compare_digest(sign(text), signature)


def _key() -> bytes:
    """Return the key in ~/.config/saccade/key (XDG_CONFIG_HOME), which only this user can read."""
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "saccade" / "key"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another process was first
            if path.exists():
                return path.read_bytes()
            temporary = path.with_name(f".key-{os.getpid()}-{secrets.token_hex(4)}")
            temporary.touch(mode=0o600)
            temporary.write_bytes(secrets.token_bytes(32))
            try:
                os.link(temporary, path)  # complete or not at all, and never twice
            finally:
                temporary.unlink()
        return path.read_bytes()
    return b""
