"""models.yaml: models, presets and aliases as checked values. Which file a name means is not known here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from localfusion.config.checked import DOMAINS, Domain, Entry, OneLine, checked, read_file
from localfusion.config.located import Location, YamlValue

SEAT_IDS = "abcdefgh"
"""The ids that seats get in panel order unless they name their own."""


def _bare_name(value: str) -> str:
    if Path(value).name != value or not value.endswith(".gguf"):
        raise ValueError("must be the bare name of a .gguf file that localfusion ships")
    return value


def _seat_of_name(value: YamlValue) -> YamlValue:
    return {"model": value} if isinstance(value, str) else value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+/-]{0,99}$")]


class ModelEntry(Entry):
    """One GGUF file and how it is loaded; names and meanings are llama.cpp's."""

    shipped: Annotated[str, AfterValidator(_bare_name)] | None = Field(
        None, description="Bare name of a GGUF that ships with localfusion. Either this or `path`."
    )
    path: OneLine | None = Field(
        None, description="Path of a GGUF; a relative one starts at this file's folder, `~/` at your own."
    )
    description: str = Field("", description="One line for people.")
    family: str = Field("", description="Who made it and from what; panels should mix families.")
    licence: str = Field("", description="The licence of the weights.")
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


class Contents(Entry):
    """The whole file."""

    models: dict[Name, ModelEntry] = Field(min_length=1, description="Name -> model.")
    presets: dict[Name, PresetEntry] = Field({}, description="Name -> preset.")
    aliases: dict[Name, Name] = Field({}, description="Name -> name of a model or a preset.")


@dataclass(frozen=True, slots=True)
class ModelsFile:
    """A checked file: every name in it leads somewhere. Relative model paths start at `folder`."""

    name: str
    folder: Path
    models: Mapping[str, ModelEntry]
    presets: Mapping[str, PresetEntry]
    aliases: Mapping[str, str]


def load(path: Path) -> ModelsFile:
    """Read and check a models file; every error is a ConfigError that names the file, and the line if there is one."""
    located = read_file(
        path, "models file", "name a models file with --models or LOCALFUSION_MODELS, or leave both out"
    )
    contents = checked(located, Contents, _entry_at)
    for location, message, hint in _disagreements(contents):
        raise located.error(location, message, hint=hint)
    return ModelsFile(located.name, path.resolve().parent, contents.models, contents.presets, contents.aliases)


def _entry_at(location: Location) -> type[Entry]:
    match location:
        case ("models", _):
            return ModelEntry
        case ("presets", _):
            return PresetEntry
        case ("presets", _, "judge"):
            return JudgeEntry
        case ("presets", _, "panel", _):
            return SeatEntry
        case (*_, "tools", "web_search") | (*_, "tools", "web_search", str()):
            return SearchEntry
        case (*_, "tools", "web_fetch") | (*_, "tools", "web_fetch", str()):
            return FetchEntry
        case (*_, "tools") | (*_, "tools", "enabled"):
            return ToolsEntry
        case _:
            return Contents


Disagreement = tuple[Location, str, str]


def _disagreements(contents: Contents) -> Iterator[Disagreement]:
    """What is wrong between entries that are each right: location, message, hint."""
    for name, model in contents.models.items():
        yield from _in_model(("models", name), model)
    for name in contents.presets:
        if name in contents.models:
            yield ("presets", name), f'"{name}" is also a model', "give one of them another name"
    for name, target in contents.aliases.items():
        yield from _in_alias(("aliases", name), name, target, contents)
    for name, preset in contents.presets.items():
        yield from _in_preset(("presets", name), preset, contents)


def _in_model(location: Location, model: ModelEntry) -> Iterator[Disagreement]:
    if (model.shipped is None) == (model.path is None):
        yield location, "a model has either shipped or path", "keep one of the two keys"
    if model.n_ubatch > model.n_batch:
        yield (*location, "n_ubatch"), "n_ubatch is larger than n_batch", "make it at most n_batch"


def _in_alias(location: Location, name: str, target: str, contents: Contents) -> Iterator[Disagreement]:
    names = [*contents.models, *contents.presets]
    if name in names:
        yield location, f'the alias "{name}" is also a model or a preset', "give it another name"
    if target not in names:
        yield location, f'the alias "{name}" stands for "{target}", which is not there', _names_hint(target, names)


def _in_preset(location: Location, preset: PresetEntry, contents: Contents) -> Iterator[Disagreement]:
    models = [*contents.models, *(alias for alias, target in contents.aliases.items() if target in contents.models)]
    ids: set[str] = set()
    for i, seat in enumerate(preset.panel):
        seat_id = seat.id or SEAT_IDS[i]
        if seat_id in ids or seat_id == "judge":
            yield (*location, "panel", i, "id"), f'the id "{seat_id}" is taken', "give the seat an id of its own"
        ids.add(seat_id)
        if seat.model not in models:
            yield (*location, "panel", i, "model"), f'unknown model "{seat.model}"', _names_hint(seat.model, models)
    if preset.judge.model not in models:
        yield (
            (*location, "judge", "model"),
            f'unknown model "{preset.judge.model}"',
            _names_hint(preset.judge.model, models),
        )


def _names_hint(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"the names here are {', '.join(names)}"
