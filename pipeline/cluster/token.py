"""Authentication at a cluster: whoever reaches Ray's port runs code as its user."""

import os
import stat
from typing import NamedTuple
from urllib.parse import urlsplit

from models.errors import JobError

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "local", "auto")
_MODE = "RAY_AUTH_MODE"


class Authentication(NamedTuple):
    """How a cluster knows its users.

    Attributes:
        said: In words.
        readable: True if others on this machine may read the token.
    """

    said: str
    readable: bool = False


def authentication(address: str | None) -> Authentication:
    """Find the authentication of a cluster, which one on another machine must have.

    A cluster without a token is open to all who reach it. ``RAY_AUTH_MODE=disabled``, set
    explicitly, says that the network is closed otherwise.

    Raises:
        JobError: There is no token, or the mode is left open.
    """
    if not address or _host(address) in _LOOPBACK:
        return Authentication("no other machine is spoken to")
    mode = os.environ.get(_MODE)
    if mode == "disabled":
        return Authentication(
            f"switched off ({_MODE}=disabled): whoever reaches {_host(address)} can run code"
        )
    if mode != "token":
        raise JobError(
            f"{_host(address)} is another machine and {_MODE} is not set: set {_MODE}=token there "
            f"and here, with one token (`ray get-auth-token --generate`); {_MODE}=disabled "
            "accepts a cluster that anyone who reaches it can use"
        )
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Authentication("token authentication")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    if not os.path.isfile(path):
        raise JobError(
            f"{_MODE}=token, but there is no token: put the cluster's into ~/.ray/auth_token "
            "(mode 0600), or into RAY_AUTH_TOKEN"
        )
    rights = stat.S_IMODE(os.stat(path).st_mode)
    if rights & 0o077:
        return Authentication(
            f"token authentication, but {path} has mode {rights:04o}: whoever else may read it can "
            f"run code on the cluster; chmod 600 {path}",
            readable=True,
        )
    return Authentication("token authentication")


def _host(address: str) -> str:
    if address in _LOOPBACK:
        return address
    return urlsplit(address if "://" in address else f"//{address}").hostname or address
