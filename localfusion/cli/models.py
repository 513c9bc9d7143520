"""`localfusion models`: the group; each of its commands is a module of its own."""

import click

from localfusion.cli.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "list": (
        "localfusion.cli.models_list",
        "List models and presets: what is here and where, and what there is to pull.",
    ),
    "add": ("localfusion.cli.models_add", "Add a GGUF file of your own, under a name that panels can use."),
    "remove": ("localfusion.cli.models_remove", "Remove a model: delete its files, or forget that it was added."),
    "dedupe": (
        "localfusion.cli.models_dedupe",
        "Find models that other programs have on this disk, and use them.",
    ),
    "lint": ("localfusion.cli.models_lint", "Say what is wrong or doubtful in a models file."),
    "bundle": ("localfusion.cli.models_bundle", "Write a preset's models into one file, to be carried elsewhere."),
    "load": ("localfusion.cli.models_load", "Take in a bundle that was carried here, once all of it is verified."),
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
