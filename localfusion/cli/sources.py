"""Options that name where a run searches, shared by the commands that search. Opens nothing."""

from dataclasses import dataclass, replace
from itertools import chain

import click

from localfusion import catalog
from localfusion.cli.options import check_paths, grouped
from localfusion.config import (
    SettingsFile,
    Surroundings,
    home_directory,
    load_models,
    load_settings,
    set_hub_offline,
)
from localfusion.domains import parse_domains
from localfusion.errors import ConfigError
from localfusion.messages import ModelSpec, SourcesSpec
from localfusion.offline import close_network

_NETWORK = ("web", "searxng", "kiwix")


@dataclass(frozen=True, slots=True)
class NamedSources:
    """What the command line says, as it was written."""

    docs: tuple[str, ...]
    zim: tuple[str, ...]
    web: bool
    engines: tuple[str, ...]
    searxng: str | None
    kiwix: tuple[str, ...]
    allowed_domains: tuple[str, ...]
    excluded_domains: tuple[str, ...]
    blocked_domains: tuple[str, ...]
    offline: bool

    @property
    def names_any(self) -> bool:
        return bool(self.docs or self.zim or self.web or self.searxng or self.kiwix)

    def spec(self, surroundings: Surroundings) -> SourcesSpec:
        """What is searched: what was named here, else what config.yaml names. Raises ConfigError."""
        file = load_settings(surroundings)
        settings = file.settings.search
        offline = self.offline or file.settings.offline
        self._check_offline(offline)
        named = self._own() if self.names_any else _of_settings(file, surroundings, offline=offline)
        spec = SourcesSpec(
            docs=named.docs,
            zim=named.zim,
            searxng=named.searxng,
            kiwix=named.kiwix,
            web=named.web,
            engines=_split(self.engines) or settings.engines,
            allowed_domains=_split(self.allowed_domains) or settings.allowed_domains,
            excluded_domains=(*settings.excluded_domains, *_split(self.excluded_domains)),
            blocked_domains=(*settings.blocked_domains, *_split(self.blocked_domains)),
            offline=offline,
            embedding=embedding_of(file, surroundings),
        )
        parse_domains(spec.allowed_domains, (*spec.excluded_domains, *spec.blocked_domains))
        return spec

    def _own(self) -> SourcesSpec:
        return SourcesSpec(
            docs=check_paths(self.docs, "--docs"),
            zim=check_paths(self.zim, "--zim"),
            searxng=_server("--searxng", self.searxng) if self.searxng else "",
            kiwix=tuple(_server("--kiwix", address) for address in self.kiwix),
            web=self.web,
        )

    def _check_offline(self, offline: bool) -> None:
        named = [name for name in _NETWORK if getattr(self, name)]
        if offline and named:
            where = "--offline" if self.offline else "`offline` of config.yaml"
            raise ConfigError(
                f"--{named[0]} needs a network and {where} allows none",
                hint="leave one of the two out; --docs and --zim search without a network",
            )


_OPTIONS = (
    click.option(
        "--docs",
        multiple=True,
        metavar="PATH",
        help="File or folder to search.  Repeatable.  [default: what config.yaml or `docs add` names, else the web]",
    ),
    click.option(
        "--zim", multiple=True, metavar="FILE", help="ZIM archive to search, such as Wikipedia's. Repeatable."
    ),
    click.option("--web", is_flag=True, help="Search the web, through DuckDuckGo and others."),
    click.option("--engines", multiple=True, metavar="A,B", help="Search engines of --web, by ddgs's names."),
    click.option("--searxng", metavar="URL", help="SearXNG server to search, like http://127.0.0.1:8888."),
    click.option("--kiwix", multiple=True, metavar="URL", help="Kiwix server to search. Repeatable."),
    click.option("--allowed-domains", multiple=True, metavar="A,B", help="Of the web, search and fetch only these."),
    click.option("--excluded-domains", multiple=True, metavar="A,B", help="Searches return none of these."),
    click.option("--blocked-domains", multiple=True, metavar="A,B", help="Fetches reach none of these."),
    click.option("--offline", is_flag=True, help="Use no network: nothing leaves this machine."),
)

source_options = grouped(NamedSources, _OPTIONS)
"""The options; the command gets them as its first argument."""


def _of_settings(file: SettingsFile, surroundings: Surroundings, *, offline: bool) -> SourcesSpec:
    settings = file.settings.search
    paths = [str(file.path_of(path, surroundings)) for path in (*settings.docs, *settings.zim)]
    n_docs = len(settings.docs)
    return SourcesSpec(
        docs=check_paths(tuple(paths[:n_docs]), "`docs` of config.yaml"),
        zim=check_paths(tuple(paths[n_docs:]), "`zim` of config.yaml"),
        searxng="" if offline else settings.searxng or "",
        kiwix=() if offline else settings.kiwix,
        web=settings.web and not offline,
    )


def go_offline() -> None:
    """Close the network for the rest of this process, and for the hub's client in those that it starts."""
    set_hub_offline()
    close_network()


def narrowed(sources: SourcesSpec, surroundings: Surroundings) -> SourcesSpec:
    """The sources of a stored run within what config.yaml allows today."""
    settings = load_settings(surroundings).settings
    return replace(
        sources,
        excluded_domains=tuple(dict.fromkeys((*sources.excluded_domains, *settings.search.excluded_domains))),
        blocked_domains=tuple(dict.fromkeys((*sources.blocked_domains, *settings.search.blocked_domains))),
        offline=sources.offline or settings.offline,
    )


def embedding_of(file: SettingsFile, surroundings: Surroundings) -> ModelSpec | None:
    """The embedding model that config.yaml names: a file, or a name of models.yaml. Raises ConfigError."""
    named = file.settings.search.embedding
    if named is None:
        return None
    path = file.path_of(named, surroundings)
    if not named.endswith(".gguf") and not path.exists():
        models = load_models(surroundings)
        if named in models.names_of_models():
            return catalog.embedding_of(models, named, path_of=catalog.locate(home_directory(surroundings)))
    path = check_paths((str(path),), "`embedding` of config.yaml")[0]
    return ModelSpec(path.stem, path)


def _server(option: str, address: str) -> str:
    if not address.startswith(("http://", "https://")) or any(ord(c) <= 32 for c in address):
        raise ConfigError(f"{option} {address!r} is no address", hint="write it like http://127.0.0.1:8888")
    return address.rstrip("/")


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in (p.strip() for p in chain.from_iterable(v.split(",") for v in values)) if part)
