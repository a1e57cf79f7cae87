"""What to measure, and for how long."""

from __future__ import annotations

import math
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
_SECONDS, _SECONDS_WITH_RATE, _FEWEST_IN_FLIGHT = 3.0, 10.0, 16


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

    seconds: float | None = None
    """For each measurement. None: 3, or 10 with a rate, since a stall must be given time to occur."""
    count: int | None = None
    """Maximum number of operations in each measurement; it then ends there, however long it takes."""
    threads: Sequence[int] = ()
    """Numbers of threads to measure with, in an open loop the most operations in flight. None: 1, or with a
    rate enough for operations of two seconds."""
    rate: float | None = None
    """Operations per second to start in an open loop: signatures with the preferred algorithm, and assertions."""
    algorithms: Sequence[str] = ()
    """JOSE names. None: all that the key supports, but with more threads or a rate only the preferred one."""
    token: bool = False
    """True to request access tokens, which requires a profile."""
    peer: bool = False
    """True to measure the bare library under each store too."""
    price: float | None = None
    """Price of a million signatures, for the keys of services that bill; for all keys if none of them does."""

    @property
    def duration(self) -> float:
        """Seconds for which each measurement is to run; with a count, the longest possible."""
        if self.count is not None:
            return float(_LONGEST)
        if self.seconds is not None:
            return self.seconds
        return _SECONDS_WITH_RATE if self.rate else _SECONDS

    def at_most(self, number: int) -> int:
        """Return how often to perform an expensive operation: `number` times, or as often as the plan's count."""
        return min(self.count or number, number)

    @property
    def thread_numbers(self) -> Sequence[int]:
        """The numbers of threads to measure with."""
        if self.threads or not self.rate:
            return self.threads or (1,)
        return (min(_MOST_THREADS, max(_FEWEST_IN_FLIGHT, math.ceil(2 * self.rate))),)

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for values that cannot be measured."""
        for name in self.algorithms:
            find_algorithm(name)
        if self.count is not None and not _is_number(self.count, 1, math.inf):
            raise ConfigurationError(f"Invalid count: {self.count}.", hint="Use a whole number of at least 1.")
        if not 0 < self.duration <= _LONGEST:
            raise ConfigurationError(
                f"Invalid duration of a measurement: {self.seconds} seconds.",
                hint=f"Use more than 0, and up to {_LONGEST:,} seconds.",
            )
        if not all(_is_number(each, 1, _MOST_THREADS) for each in self.threads):
            raise ConfigurationError(
                f"Invalid number of threads: {', '.join(map(str, self.threads))}.",
                hint=f"Use numbers from 1 to {_MOST_THREADS:,}, such as 1,2,4,8.",
            )
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ConfigurationError(f"Invalid price: {self.price:g}.", hint="Use the price of a million signatures.")
        if self.rate is not None and len(self.threads) > 1:
            raise ConfigurationError(
                "With a rate there is one number of threads.",
                hint="Give the maximum number of signatures in flight, or leave it out.",
            )
        if self.rate is not None and not 0 < self.rate <= _HIGHEST_RATE:
            raise ConfigurationError(
                f"Invalid rate: {self.rate:g}.",
                hint=f"Use more than 0, and up to {_HIGHEST_RATE:,} operations per second.",
            )
        if self.rate and self.rate * self.duration < 1:
            raise ConfigurationError(
                f"At {self.rate:g} operations per second, none starts within {self.duration:g} seconds.",
                hint=f"Measure for at least {math.ceil(1 / self.rate)} seconds.",
            )


def _is_number(value: object, lowest: int, highest: float) -> bool:
    return isinstance(value, int) and lowest <= value <= highest
