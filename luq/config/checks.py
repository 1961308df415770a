"""The one check behind every setting."""

from luq.errors import ConfigError


def require(fine: bool, key: str, value: object, allowed: str) -> None:
    """A ConfigError that names the key, the value and what is allowed, unless `fine`."""
    if not fine:
        raise ConfigError(f"{key}={value!r} is not possible: it must be {allowed}")
