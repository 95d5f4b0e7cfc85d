"""Addresses with a user and a password: find them, and show them without."""

import re

# The part before an @ behind the scheme. A user has no slash, but a password may: AWS's secrets
# do. An @ that follows neither is part of a path (s3://bucket/a@b, or a file behind sqlite:///).
_USERINFO = re.compile(r"(?<=://)(?=[^/\s@]*@|[^/\s:@]*:\S*@)\S*@")
# A query that gives a password by name, as addresses of databases do.
_PASSWORD = re.compile(r"://\S*[?&][^=&\s]*(?:pass|pwd|secret|token|key)[^=&\s]*=[^&\s]", re.I)


def holds_userinfo(text: str) -> bool:
    """True where an address in ``text`` has a user or a password."""
    return _USERINFO.search(text) is not None


def holds_password(text: str) -> bool:
    """True where an address in ``text`` has a user or a password, in its query too."""
    return holds_userinfo(text) or _PASSWORD.search(text) is not None


def without_userinfo(text: str) -> str:
    """``text`` with ``***`` for the user and the password of every address in it."""
    return _USERINFO.sub("***@", text)


def redact(text: str) -> str:
    """``text`` without users and passwords, nor queries, which may hold one too."""
    return re.sub(r"\?\S*", "?***", without_userinfo(text))
