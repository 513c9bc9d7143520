"""`localfusion models`: the group; each of its commands is a module of its own."""

import click

from localfusion.cli.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "bundle": ("localfusion.cli.models_bundle", "Write a preset's models into one file, to be carried elsewhere."),
    "load": ("localfusion.cli.models_load", "Take in a bundle that was carried here, once all of it is verified."),
}


@click.group(cls=LazyGroup, modules=COMMANDS)
def models() -> None:
    """List, pull, verify, carry and remove models; say which presets fit.

    What is known of models is models.yaml (docs/models-yaml.md); where their files are is said by `models list`.

    \b
    Examples:
      localfusion models fit
      localfusion models pull general-fast
      localfusion models list
    """
