"""models.yaml: models, presets and aliases as checked values. Which file a name means is not known here."""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from localfusion.config.checked import DOMAINS, Domain, Entry, OneLine, checked, read_file
from localfusion.config.located import Located, Location, YamlValue, read_yaml
from localfusion.errors import ConfigError
from localfusion.messages import JUDGE, WRITER

T = TypeVar("T")

_PLACES = ("shipped", "path", "hub", "provider")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")

SEAT_IDS = "abcdefgh"
"""The ids that seats get in panel order unless they name their own."""


def _bare_name(value: str) -> str:
    if Path(value).name != value or not value.endswith(".gguf"):
        raise ValueError("must be the bare name of a .gguf file that localfusion ships")
    return value


def _hub_file(value: str) -> str:
    parts = value.split("/")
    if not value.endswith(".gguf") or any(part in ("", ".", "..") for part in parts) or not _HUB_NAME.fullmatch(value):
        raise ValueError("must be the name of a .gguf file in the repository")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value) if not any(ord(c) <= 32 for c in value) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address like https://openrouter.ai/api/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must hold no user, query or fragment: keys are not for this file")
    return value.rstrip("/")


def _seat_of_name(value: YamlValue) -> YamlValue:
    return {"model": value} if isinstance(value, str) else value


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
AliasName = Annotated[str, Field(pattern=NAME_PATTERN.replace("^", "^~?"))]
"""Some clients name the latest of a maker's models as `~maker/model-latest`."""


class HubEntry(Entry):
    """A GGUF on the Hugging Face hub, or one that speaks its protocol (HF_ENDPOINT). `models pull` fetches it."""

    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")] = Field(
        description="The repository, as `owner/name`."
    )
    file: Annotated[str, AfterValidator(_hub_file)] = Field(
        description="The file in it; of a split GGUF the first part, whose name ends in `-00001-of-` and so on."
    )
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")] = Field(
        "main", description="A branch, a tag or, to pin it, a commit."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = Field(
        None, description="The hash of the (first) file, or the 8 or more digits of it that are known."
    )
    size_bytes: Annotated[int, Field(ge=1)] | None = Field(None, description="The length of the (first) file.")


class PricesEntry(Entry):
    """What a provider takes, in US dollars for a million tokens."""

    prompt: float = Field(ge=0, le=100_000, description="For what is read.")
    completion: float = Field(ge=0, le=100_000, description="For what is written, reasoning included.")
    cached: Annotated[float, Field(ge=0, le=100_000)] | None = Field(
        None, description="For what is read from the provider's cache; by default as `prompt`."
    )


class ProviderEntry(Entry):
    """An OpenAI-compatible endpoint. Nothing is sent to it unless a run allows it (`--allow-cloud`)."""

    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        description="What `/chat/completions` is appended to, as `https://openrouter.ai/api/v1`."
    )
    description: str = Field("", description="One line for people.")
    key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = Field(
        None,
        description="The environment variable that holds the key; where it is not set, the keyring is asked for"
        " service `localfusion` and this provider's name. Leave it out where no key is wanted.",
    )
    structured: Literal["json_schema", "tools"] = Field(
        "json_schema",
        description="How its models are held to a format: by JSON Schema (`response_format`), or by their own tools.",
    )
    timeout_s: float = Field(300, gt=0, le=86_400, description="Seconds for one request, at most.")
    max_retries: int = Field(3, ge=0, le=10, description="How often a request is sent again that failed at once.")


class ModelEntry(Entry):
    """One model: a GGUF file and how llama.cpp loads it (names and meanings are its own), or a provider's model.

    What is said of loading counts for files only; `n_ctx` is for both.
    """

    shipped: Annotated[str, AfterValidator(_bare_name)] | None = Field(
        None,
        description="Bare name of a GGUF that ships with localfusion. Just one of this, `path`, `hub` and `provider`.",
    )
    path: OneLine | None = Field(
        None, description="Path of a GGUF; a relative one starts at this file's folder, `~/` at your own."
    )
    hub: HubEntry | None = Field(None, description="A GGUF on the model hub; its keys are below.")
    provider: Name | None = Field(None, description="A name under `providers`.")
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="With `provider`: the provider's own name of the model."
    )
    prices: PricesEntry | None = Field(
        None, description="With `provider`: what it takes. Without prices a run with `--max-cost` does not ask it."
    )
    description: str = Field("", description="One line for people.")
    family: str = Field("", description="Who made it and from what; panels should mix families.")
    embeddings: bool = Field(
        False,
        description="It turns text into vectors: for `search.embedding` of config.yaml, for no seat and no judge.",
    )
    licence: str = Field("", description="The licence of the weights.")
    licence_note: str = Field(
        "", description="What the licence forbids or asks for beyond a notice; said before the file is pulled."
    )
    n_ctx: Annotated[int, Field(ge=256, le=1_048_576)] | Literal["auto"] = Field(
        "auto",
        description="Tokens of context for each seat; `auto` is 8192, or what the model was trained with if less.",
    )
    n_batch: int = Field(512, ge=32, le=16_384, description="Tokens that are read at a time.")
    n_ubatch: int = Field(512, ge=32, le=16_384, description="Tokens that are computed at a time, at most `n_batch`.")
    flash_attn: bool = Field(True, description="Flash attention: less memory for the same result.")
    kv_type: Literal["f16", "q8_0", "auto"] = Field(
        "auto", description="How the KV cache is kept: `q8_0` takes half of `f16`; `auto` takes it where it must."
    )
    use_mmap: bool | Literal["auto"] = Field(
        "auto", description="Map the file, or read it into memory; `auto` does what takes less memory."
    )
    n_threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="Threads at most; `auto` is an even part of the cores. Tiny models are fastest with 1."
    )
    n_gpu_layers: Annotated[int, Field(ge=-1, le=1000)] | Literal["auto"] = Field(
        "auto",
        description="Layers put on a GPU, -1 is all of them; `auto` is as many as its free memory takes. A model is on"
        " one GPU; the models of a panel may be on several.",
    )


CONTEXT_SIZES = {"low": 5_000, "medium": 15_000, "high": 30_000}
"""`search_context_size` as characters of a result (FUSION.md section 2)."""


class SearchEntry(Entry):
    """How much the searches of a seat may bring back. Over a limit the model is told."""

    max_results: int = Field(5, ge=1, le=25, description="Results of one search, at most.")
    max_characters: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Characters of one result, at most; 2000 where `search_context_size` says nothing either."
    )
    search_context_size: Literal["low", "medium", "high"] | None = Field(
        None, description="The same in three sizes: 5 000, 15 000 or 30 000 characters."
    )
    max_uses: Annotated[int, Field(ge=1, le=100)] | None = Field(None, description="Searches, at most.")
    max_total_results: int = Field(50, ge=1, le=1000, description="Results of all searches together, at most.")
    allowed_domains: tuple[Domain, ...] = Field((), max_length=100, description=f"Only these of the web: {DOMAINS}")
    excluded_domains: tuple[Domain, ...] = Field((), max_length=100, description="None of these, written alike.")


class FetchEntry(Entry):
    """How much the fetches of a seat may bring back. Over a limit the model is told."""

    max_uses: Annotated[int, Field(ge=1, le=100)] | None = Field(None, description="Fetches, at most.")
    max_content_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = Field(
        None, description="Tokens of a page, at most; by default four times the characters of a search result."
    )
    allowed_domains: tuple[Domain, ...] = Field((), max_length=100, description=f"Only these of the web: {DOMAINS}")
    blocked_domains: tuple[Domain, ...] = Field((), max_length=100, description="None of these, written alike.")


class ToolsEntry(Entry):
    """Which tools a seat has, and how much they may bring back."""

    enabled: tuple[Literal["web_search", "web_fetch"], ...] = Field(
        ("web_search", "web_fetch"), max_length=2, description="The tools; `[]` means none."
    )
    web_search: SearchEntry = Field(SearchEntry(), description="Limits of `web_search`; its keys are below.")
    web_fetch: FetchEntry = Field(FetchEntry(), description="Limits of `web_fetch`; its keys are below.")


class FallbackEntry(Entry):
    """A model that steps in for a seat's own. May be a bare name, which steps in whatever is wrong."""

    model: str = Field(description="A name under `models` or `aliases`.")
    when: tuple[Literal["not_installed", "does_not_fit", "died", "timed_out"], ...] = Field(
        ("not_installed", "does_not_fit", "died", "timed_out"),
        min_length=1,
        max_length=4,
        description="For which reasons it steps in.",
    )


Fallbacks = tuple[Annotated[FallbackEntry, BeforeValidator(_seat_of_name)], ...]


class SeatEntry(Entry):
    """One panelist: a model and what is its own. A seat may also be written as the model's name alone."""

    model: str = Field(description="A name under `models` or `aliases`.")
    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,15}$")] | None = Field(
        None, description="How the panelist is called; by default a, b, c ... in panel order."
    )
    temperature: float = Field(0.7, ge=0, le=2, description="0 is greedy.")
    top_k: int = Field(40, ge=0, le=100_000, description="Keep the k most likely tokens; 0 keeps all.")
    top_p: float = Field(0.95, gt=0, le=1, description="Keep the most likely tokens up to this probability in sum.")
    min_p: float = Field(0.05, ge=0, le=1, description="Drop tokens below this share of the most likely one.")
    repeat_penalty: float = Field(1.0, gt=0, le=2, description="Above 1 discourages tokens that were just written.")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = Field(
        None, description="By default the run's seed plus the seat's place (0, 1, 2 ...)."
    )
    persona: str = Field("", max_length=4000, description="Put before the panelist's instructions.")
    thinking: bool = Field(False, description="Let a model that can think do so before it answers.")
    max_tokens: int = Field(1024, ge=1, le=1_048_576, description="Tokens of one step, at most; thinking included.")
    n_ctx: Annotated[int, Field(ge=256, le=1_048_576)] | Literal["auto"] | None = Field(
        None, description="By default the model's own `n_ctx`."
    )
    max_tool_calls: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="By default the preset's `max_tool_calls`."
    )
    tools: ToolsEntry = Field(ToolsEntry(), description="Its tools and their limits; its keys are below.")
    fallback: Fallbacks = Field(
        (), max_length=8, description="Models that step in for its own, in order: names, or mappings as below."
    )
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None, description="Seconds that each of its models may take, loading included; by default without end."
    )


class JudgeEntry(Entry):
    """The model that compares the answers and writes the final one, always at temperature 0. May be a bare name."""

    model: str = Field(description="A name under `models` or `aliases`.")
    thinking: bool = Field(False, description="Let a model that can think do so before it writes.")
    max_tool_calls: int = Field(
        2, ge=0, le=16, description="Tool calls before it compares, to look up what the answers leave in doubt."
    )
    tools: ToolsEntry = Field(
        ToolsEntry(web_search=SearchEntry(max_results=3, max_characters=800)),
        description="As a seat's; by default 3 results of 800 characters, since the answers need the room.",
    )
    max_tokens: int = Field(4096, ge=1, le=1_048_576, description="Tokens of the analysis, and of the answer, at most.")
    n_ctx: Annotated[int, Field(ge=256, le=1_048_576)] | Literal["auto"] | None = Field(
        None, description="By default the model's own `n_ctx`."
    )
    fallback: Fallbacks = Field((), max_length=8, description="As a seat's.")
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = Field(None, description="As a seat's.")


class PresetEntry(Entry):
    """A panel and a judge under one name."""

    description: str = Field("", description="One line for people.")
    panel: tuple[Annotated[SeatEntry, BeforeValidator(_seat_of_name)], ...] = Field(
        min_length=1, max_length=8, description="1 to 8 seats: model names, or mappings as below."
    )
    judge: Annotated[JudgeEntry, BeforeValidator(_seat_of_name)] = Field(
        description="The judge: a model's name, or a mapping as below."
    )
    max_tool_calls: int = Field(4, ge=1, le=16, description="Tool calls of each panelist before it must answer.")
    deliberate: Literal["auto", "always"] = Field(
        "auto",
        description="For the server: `auto` lets the outer model answer what needs no panel, `always` asks the panel of"
        " every question, for models that are too small to tell.",
    )


class Contents(Entry):
    """The whole file. It extends the one that comes with localfusion; of two entries of one name, its own counts."""

    providers: dict[Name, ProviderEntry] = Field({}, description="Name -> provider.")
    models: dict[Name, ModelEntry] = Field({}, description="Name -> model.")
    presets: dict[Name, PresetEntry] = Field({}, description="Name -> preset.")
    aliases: dict[AliasName, Name] = Field({}, description="Name -> name of a model or a preset.")


@dataclass(frozen=True, slots=True)
class ModelsFile:
    """A checked file and what it extends: every name in it leads somewhere, every `path` is absolute."""

    name: str
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    presets: Mapping[str, PresetEntry] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    providers: Mapping[str, ProviderEntry] = field(default_factory=dict)
    skipped: Mapping[Path, ConfigError] = field(default_factory=dict)
    """Notes of the home that cannot be read, and why: what they say is not known."""

    def names_of_models(self) -> list[str]:
        """What may be named where a model is meant."""
        return [*self.models, *(alias for alias, target in self.aliases.items() if target in self.models)]

    def is_embedding(self, name: str) -> bool:
        """Whether a model, by its name or an alias, turns text into vectors."""
        found = self.models.get(self.aliases.get(name, name))
        return found is not None and found.embeddings


@dataclass(frozen=True, slots=True)
class Extension:
    """One file: where everything stands in it, what it says itself, and the whole that it makes of what it extends."""

    located: Located
    own: Contents
    whole: ModelsFile


def load(path: Path, *, extends: ModelsFile | None = None) -> ModelsFile:
    """Read and check a models file; every error is a ConfigError that names the file, and the line if there is one."""
    return read(path, extends=extends).whole


def read(path: Path, *, extends: ModelsFile | None = None) -> Extension:
    """The same, with what the file says itself."""
    located = read_file(
        path, "models file", "name a models file with --models or LOCALFUSION_MODELS, or leave both out"
    )
    return _read(located, path, extends or ModelsFile(""))


def read_text(text: str, path: Path, *, extends: ModelsFile) -> Extension:
    """The same of a text that is to be the file."""
    return _read(read_yaml(text, name=str(path)), path, extends)


def _read(located: Located, path: Path, base: ModelsFile) -> Extension:
    own = checked(located, Contents)
    whole = _extended(base, own, folder=path.resolve().parent, name=located.name)
    for location, message, hint in _disagreements(own, whole, base):
        raise located.error(location, message, hint=hint)
    return Extension(located, own, whole)


def _extended(base: ModelsFile, own: Contents, *, folder: Path, name: str) -> ModelsFile:
    """Both together; what a file says of a name takes the place of all that the file below it said of that name."""
    models = {key: _absolute(entry, folder) for key, entry in own.models.items()}
    named = {*own.models, *own.presets, *own.aliases}

    def left(entries: Mapping[str, T]) -> dict[str, T]:
        return {key: entry for key, entry in entries.items() if key not in named}

    return ModelsFile(
        name,
        {**left(base.models), **models},
        {**left(base.presets), **own.presets},
        {**left(base.aliases), **own.aliases},
        {**base.providers, **own.providers},
        base.skipped,
    )


def _absolute(entry: ModelEntry, folder: Path) -> ModelEntry:
    if entry.path is None or entry.path.startswith("~"):
        return entry
    return entry.model_copy(update={"path": str(folder / entry.path)})


Disagreement = tuple[Location, str, str]


def _disagreements(own: Contents, whole: ModelsFile, base: ModelsFile) -> Iterator[Disagreement]:
    """What is wrong between entries that are each right: location, message, hint."""
    for name, model in own.models.items():
        yield from _in_model(("models", name), model, whole)
    for name in own.presets:
        if name in own.models:
            yield ("presets", name), f'"{name}" is also a model', "give one of them another name"
    for name, target in own.aliases.items():
        yield from _in_alias(("aliases", name), name, target, own, whole)
    for name, preset in own.presets.items():
        yield from _in_preset(("presets", name), preset, whole)
    yield from _below(own, whole, base)


def _in_model(location: Location, model: ModelEntry, whole: ModelsFile) -> Iterator[Disagreement]:
    named = [key for key in _PLACES if getattr(model, key) is not None]
    if len(named) != 1:
        yield location, f"a model has just one of {', '.join(_PLACES)}", "keep one of these keys"
    if model.n_ubatch > model.n_batch:
        yield (*location, "n_ubatch"), "n_ubatch is larger than n_batch", "make it at most n_batch"
    if model.provider is None:
        for key in ("model", "prices"):
            if getattr(model, key) is not None:
                yield (*location, key), f"{key} is for a provider's model", "leave it out, or name the provider"
        return
    if model.provider not in whole.providers:
        hint = _names_hint(model.provider, list(whole.providers))
        yield (*location, "provider"), f'unknown provider "{model.provider}"', hint
    if model.model is None:
        yield location, "a provider's model has the key model", "say how the provider names it"


def _in_alias(location: Location, name: str, target: str, own: Contents, whole: ModelsFile) -> Iterator[Disagreement]:
    names = [*whole.models, *whole.presets]
    if name in own.models or name in own.presets:
        yield location, f'the alias "{name}" is also a model or a preset', "give it another name"
    if target not in names:
        yield location, f'the alias "{name}" stands for "{target}", which is not there', _names_hint(target, names)


def _in_preset(location: Location, preset: PresetEntry, whole: ModelsFile) -> Iterator[Disagreement]:
    ids: set[str] = set()
    for i, seat in enumerate(preset.panel):
        seat_id = seat.id or SEAT_IDS[i]
        if seat_id in ids or seat_id in (JUDGE, WRITER):
            yield (*location, "panel", i, "id"), f'the id "{seat_id}" is taken', "give the seat an id of its own"
        ids.add(seat_id)
    models = whole.names_of_models()
    for place, name in models_used(preset):
        if name not in models:
            yield (*location, *place), f'unknown model "{name}"', _names_hint(name, models)
        elif whole.is_embedding(name):
            yield (*location, *place), f'"{name}" is an embedding model', "name a model that writes text"


def models_used(preset: PresetEntry) -> Iterator[tuple[Location, str]]:
    """Every name of a model in a preset, fallbacks included, with its place in it."""
    for i, seat in enumerate(preset.panel):
        yield from _of_seat(("panel", i), seat)
    yield from _of_seat(("judge",), preset.judge)


def _of_seat(location: Location, seat: SeatEntry | JudgeEntry) -> Iterator[tuple[Location, str]]:
    yield (*location, "model"), seat.model
    for i, fallback in enumerate(seat.fallback):
        yield (*location, "fallback", i, "model"), fallback.model


def _below(own: Contents, whole: ModelsFile, base: ModelsFile) -> Iterator[Disagreement]:
    """Names that a file gives another meaning and that what it extends still uses in the old one."""
    models, hint = whole.names_of_models(), "give it another name"
    for name, preset in base.presets.items():
        if whole.presets.get(name) is not preset:
            continue
        for _, used in models_used(preset):
            if used not in models or whole.is_embedding(used):
                location = _taken(own, used, base.aliases.get(used, used))
                yield location, f'the preset "{name}", which this file extends, has "{used}" for a model', hint
    for name, target in base.aliases.items():
        if whole.aliases.get(name) == target and target not in whole.models and target not in whole.presets:
            yield _taken(own, target), f'the alias "{name}", which this file extends, stands for "{target}"', hint


def _taken(own: Contents, *names: str) -> Location:
    """Where a file says what one of these names is."""
    sections: Mapping[str, Container[str]] = {"models": own.models, "presets": own.presets, "aliases": own.aliases}
    return next(((section, name) for name in names for section, keys in sections.items() if name in keys), ())


def _names_hint(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"the names here are {', '.join(names)}"
