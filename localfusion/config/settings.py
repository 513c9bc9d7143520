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


Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]{1,200}$")]


class ServerSettings(Entry):
    """What `localfusion serve` listens on, and what holds for whoever asks it. Options of the command win."""

    host: OneLine = Field("127.0.0.1", description="The address to listen on; off the loopback keys are demanded.")
    port: int = Field(8484, ge=0, le=65_535, description="The port; 0 is any that is free.")
    allowed_hosts: tuple[OneLine, ...] = Field(
        (), max_length=100, description="Further names that requests may name in `Host`, beside those of the loopback."
    )
    cors_origins: tuple[Origin, ...] = Field(
        (), max_length=100, description="Origins of pages of the web that may ask, as `http://localhost:3000`."
    )
    max_body_mib: float = Field(8, gt=0, le=1024, description="How large a request may be.")
    max_queue: int = Field(
        64, ge=1, le=100_000, description="Requests that may be under way or wait; further ones are answered 503."
    )
    timeout_s: float = Field(
        3600, gt=0, le=604_800, description="Seconds that a request may take, at most; in the background, any time."
    )
    heartbeat_s: float = Field(
        3,
        gt=0,
        le=3600,
        description="Seconds of silence after which a stream, or a whole reply of /api/v1, says that it lives."
        " OpenRouter's own client gives up after 5.",
    )
    stop_s: float = Field(30, ge=0, le=3600, description="Seconds that requests have to finish when the server ends.")
    parallel: int = Field(
        4, ge=1, le=64, description="Texts that one model may write side by side, where the memory allows it."
    )
    keep_days: float = Field(30, ge=0, le=36_500, description="Days that stored responses are kept, with their runs.")
    log_prompts: bool = Field(False, description="Write what is asked into the log.")
    watts: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None, description="What this machine draws under load: with it, energy is estimated."
    )


class Settings(Entry):
    """The whole file."""

    offline: bool = Field(False, description="No run of this home uses a network.")
    search: SearchSettings = Field(SearchSettings(), description="Where runs search; its keys are below.")
    cloud: CloudSettings = Field(CloudSettings(), description="What may be sent to providers; its keys are below.")
    server: ServerSettings = Field(ServerSettings(), description="How `localfusion serve` serves; its keys are below.")


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
