"""Options that say whether a run may ask providers, and what that may cost. Asks nobody."""

import math
from dataclasses import dataclass
from typing import TypeVar

import click

from localfusion.cli.options import grouped, parse_count
from localfusion.config import Surroundings, load_settings
from localfusion.errors import ConfigError
from localfusion.messages import CloudLeave

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class NamedLeave:
    """What the command line says, as it was written."""

    allow_cloud: bool
    max_cost: float | None
    max_cloud_tokens: int | None

    def leave(self, surroundings: Surroundings, *, offline: bool) -> CloudLeave:
        """What a run may send to providers: what was said here, else in config.yaml. Raises ConfigError."""
        settings = load_settings(surroundings).settings.cloud
        if self.allow_cloud and offline:
            raise ConfigError(
                "--allow-cloud needs a network and the run is offline",
                hint="leave out --allow-cloud, or take back --offline or `offline` of config.yaml",
            )
        return CloudLeave(
            is_allowed=(self.allow_cloud or settings.allow) and not offline,
            max_cost=settings.max_cost if self.max_cost is None else self.max_cost,
            max_tokens=settings.max_tokens if self.max_cloud_tokens is None else self.max_cloud_tokens,
            is_named=self.allow_cloud,
        )

    def renewed(self, stored: CloudLeave, surroundings: Surroundings, *, offline: bool) -> CloudLeave:
        """What a stored run may send when it goes on: what is said here, else what it might within today's config.yaml.

        Raises ConfigError.
        """
        found = self.leave(surroundings, offline=offline)
        if self.allow_cloud:
            return found
        settings = load_settings(surroundings).settings.cloud
        return CloudLeave(
            is_allowed=stored.is_allowed and (stored.is_named or settings.allow) and not offline,
            max_cost=_lower(stored.max_cost, settings.max_cost) if self.max_cost is None else self.max_cost,
            max_tokens=_lower(stored.max_tokens, settings.max_tokens)
            if self.max_cloud_tokens is None
            else self.max_cloud_tokens,
            is_named=stored.is_named,
        )


def _lower(one: N | None, other: N | None) -> N | None:
    """The narrower of two limits, where None is none."""
    limits = [limit for limit in (one, other) if limit is not None]
    return min(limits, default=None)


def _finite(_context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("write a number of dollars, like 0.50", param=parameter)
    return value


_OPTIONS = (
    click.option(
        "--allow-cloud",
        is_flag=True,
        help="Models of providers that the panel names may be asked, and what they need to know is sent to them.",
    ),
    click.option(
        "--max-cost",
        type=click.FloatRange(0, 1_000_000),
        callback=_finite,
        metavar="USD",
        help="What the run may spend on providers, by the prices in models.yaml.",
    ),
    click.option(
        "--max-cloud-tokens",
        callback=parse_count,
        metavar="N",
        help="Tokens that the run may take of providers, read and written, like 200k.",
    ),
)

cloud_options = grouped(NamedLeave, _OPTIONS)
"""The options; the command gets them as its first argument."""
