"""`localfusion models`: the group; each of its commands is a module of its own."""

import click

from localfusion.cli.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("localfusion.cli.models_fit", "Say which presets fit this machine, and what is to pull for them."),
    "pull": ("localfusion.cli.models_pull", "Fetch models from the hub, checked before they count."),
    "verify": ("localfusion.cli.models_verify", "Hash installed models anew and say what changed."),
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
