"""config.yaml: what holds for every run of this home unless the command line says otherwise. Knows no model."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from localfusion.config.checked import DOMAINS, Domain, Entry, OneLine, checked, read_file
from localfusion.config.surroundings import Surroundings, expanded, home_directory

FILE_NAME = "config.yaml"


def _server(value: str) -> str:
    if not value.startswith(("http://", "https://")) or any(ord(c) <= 32 for c in value):
        raise ValueError("must be an address like http://127.0.0.1:8888")
    return value.rstrip("/")


Server = Annotated[str, AfterValidator(_server)]


class SearchSettings(Entry):
    """Where runs search that name no source themselves, and what holds for all of them."""

    docs: tuple[OneLine, ...] = Field((), max_length=100, description="Files and folders.")
    zim: tuple[OneLine, ...] = Field((), max_length=100, description="ZIM archives, as Wikipedia's, on disk.")
    web: bool = Field(False, description="The web, through DuckDuckGo and others.")
    engines: tuple[str, ...] = Field((), max_length=20, description="Search engines for `web`; by default a few.")
    searxng: Server | None = Field(None, description="The address of a SearXNG server.")
    kiwix: tuple[Server, ...] = Field((), max_length=20, description="Addresses of kiwix servers.")
    allowed_domains: tuple[Domain, ...] = Field((), max_length=100, description=f"Only these of the web: {DOMAINS}")
    excluded_domains: tuple[Domain, ...] = Field((), max_length=100, description="Searches return none of these.")
    blocked_domains: tuple[Domain, ...] = Field((), max_length=100, description="Fetches reach none of these.")
    embedding: OneLine | None = Field(
        None, description="An embedding GGUF, or the name of one in models.yaml: documents are found by meaning, too."
    )
    keep_pages_hours: float = Field(
        24, ge=0, le=87_600, description="Hours for which a fetched page is not fetched again."
    )


class CloudSettings(Entry):
    """What runs of this home may send to providers. `--offline` wins over all of it."""

    allow: bool = Field(False, description="Runs may ask providers without `--allow-cloud`.")
    max_cost: Annotated[float, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="US dollars that a run may spend on providers, unless `--max-cost` says otherwise."
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Tokens that a run may take of providers, unless `--max-cloud-tokens` says otherwise.",
    )


class Settings(Entry):
    """The whole file."""

    offline: bool = Field(False, description="No run of this home uses a network.")
    search: SearchSettings = Field(SearchSettings(), description="Where runs search; its keys are below.")
    cloud: CloudSettings = Field(CloudSettings(), description="What may be sent to providers; its keys are below.")


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """Checked settings; relative paths in them start at `folder`, see `path_of`."""

    folder: Path
    settings: Settings = field(default_factory=Settings)

    def path_of(self, text: str, surroundings: Surroundings) -> Path:
        """A path that the file names, absolute."""
        return self.folder / expanded(text, surroundings)


def load(surroundings: Surroundings) -> SettingsFile:
    """The file that LOCALFUSION_CONFIG names, else config.yaml of the home, else nothing but defaults."""
    named = surroundings.variables.get("LOCALFUSION_CONFIG", "")
    path = surroundings.working_directory / expanded(named, surroundings) if named else None
    if path is None:
        path = home_directory(surroundings) / FILE_NAME
        if not os.path.lexists(path):  # anything else of that name that cannot be read must not count as no settings
            return SettingsFile(path.parent)
    located = read_file(path, "settings file", "set LOCALFUSION_CONFIG to a file that is there, or unset it")
    return SettingsFile(path.resolve().parent, checked(located, Settings))
