"""The one check behind every setting, and the mark of fields that change no result."""

from luq.errors import ConfigError

# Metadata of a dataclass field that cannot change a byte of any result: it stands in no key.
#     folder: Path = field(metadata=VOLATILE)
VOLATILE = {"volatile": True}


def require(fine: bool, key: str, value: object, allowed: str) -> None:
    """A ConfigError that names the key, the value and what is allowed, unless `fine`."""
    if not fine:
        raise ConfigError(f"{key}={value!r} is not possible: it must be {allowed}")
