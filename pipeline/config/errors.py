"""The error of a request that cannot be met."""

from models.errors import RequestError


class ConfigError(RequestError):
    """A request that cannot be met; the message names the flag, the rule and the remedy."""


def at_least(minimum: int, **values: float | None) -> None:
    """Raise ConfigError for the first of ``values``, named as flags, that is smaller."""
    for name, value in values.items():
        if value is not None and value < minimum:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {value}: it must be at least {minimum}")
