"""What to measure, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyvouch._core import opening
from keyvouch.algorithms import find_algorithm
from keyvouch.errors import ConfigurationError

if TYPE_CHECKING:
    from keyvouch.config import Profile
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri

_LONGEST, _MOST_THREADS, _HIGHEST_RATE = 86_400, 1024, 100_000


@dataclass(frozen=True)
class Target:
    """A key to measure, and the profile that it is from."""

    uri: str | KeyUri
    profile_name: str = ""
    profile: Profile | None = None
    """Whose client requests tokens, and whose rules apply to secrets."""
    secrets: SecretResolver | None = None
    """Instead of the resolver by the profile's rules."""

    def resolver(self) -> SecretResolver:
        """Return what resolves the references in its URI."""
        return self.secrets or opening.resolver_for(self.profile)


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    seconds: float = 3.0
    """For each measurement."""
    count: int | None = None
    """Maximum number of operations in each measurement; it then ends there, however long it takes."""
    threads: Sequence[int] = (1,)
    rate: float | None = None
    """Signatures per second to start in an open loop."""
    algorithms: Sequence[str] = ()
    """JOSE names. None: all that the key supports, with more threads only the preferred one."""
    token: bool = False
    """True to request access tokens, which requires a profile."""
    peer: bool = False
    """True to measure the bare library under each store too."""
    price: float | None = None
    """Price of a million signatures, for the keys of services that bill; for all keys if none of them does."""

    @property
    def longest(self) -> float:
        """Seconds after which a measurement ends."""
        return self.seconds if self.count is None else float(_LONGEST)

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for values that cannot be measured."""
        for name in self.algorithms:
            find_algorithm(name)
        if not 0 < self.seconds <= _LONGEST or (self.count is not None and self.count < 1):
            raise ConfigurationError(
                "Invalid duration of a measurement.", hint=f"Use up to {_LONGEST} seconds, or a count of at least 1."
            )
        if not self.threads or not all(1 <= each <= _MOST_THREADS for each in self.threads):
            raise ConfigurationError(
                "Invalid number of threads.", hint=f"Use numbers from 1 to {_MOST_THREADS}, such as 1,2,4,8."
            )
        if self.rate is not None and not 0 < self.rate <= _HIGHEST_RATE:
            raise ConfigurationError(
                f"Invalid rate: {self.rate:g}.", hint=f"Use up to {_HIGHEST_RATE:,} operations per second."
            )
