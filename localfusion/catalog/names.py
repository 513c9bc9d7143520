"""From the name of a model to the model: a file and how it is loaded, or a provider's. Opens nothing."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from localfusion.catalog.gguf_files import SHIPPED, expanded
from localfusion.catalog.installed import AnotherFile, PathOf
from localfusion.config import ModelEntry, ModelsFile, ProviderEntry
from localfusion.errors import ConfigError
from localfusion.messages import AnyModel, ModelSpec, Prices, ProviderSpec, RemoteModel

REMOTE_N_CTX = 32_768
"""The window of a provider's model where its entry names none: what every one has by now."""
UNNAMED = ModelEntry(path="any.gguf")
"""How a file is loaded that no entry names; its own name may be none that an entry could have."""


def model_of(models: ModelsFile, name: str, *, path_of: PathOf, n_ctx: int | Literal["auto"] | None = None) -> AnyModel:
    """A model by its name in the catalogue, or by its file; `n_ctx` wins over the entry's. Raises ConfigError."""
    if name.endswith(".gguf"):
        return file_spec(Path(name).stem, expanded(name).absolute(), UNNAMED, n_ctx)
    entry = entry_of(models, name)
    if entry.embeddings:
        raise ConfigError(f"{name} is an embedding model", hint="name a model that writes text")
    if entry.provider is not None:
        return _remote(name, entry, models.providers[entry.provider], n_ctx)
    return file_spec(name, file_of(name, entry, path_of=path_of), entry, n_ctx)


def entry_of(models: ModelsFile, name: str) -> ModelEntry:
    """What the catalogue says of a model, by its name or an alias. Raises ConfigError."""
    found = models.models.get(models.aliases.get(name, name))
    if found is None:
        raise unknown("model", name, models.names_of_models(), models)
    return found


def embedding_of(models: ModelsFile, name: str, *, path_of: PathOf) -> ModelSpec:
    """The embedding model of a name in the catalogue. Raises ConfigError for one that is none or is not there."""
    entry = entry_of(models, name)
    if not entry.embeddings:
        raise ConfigError(f"{name} is no embedding model", hint="name one that models.yaml has `embeddings: true` for")
    path = file_of(name, entry, path_of=path_of)
    if not path.exists():
        hint = f"localfusion models pull {name}" if entry.hub else "check its path in models.yaml"
        raise ConfigError(f"{name} is not here yet", hint=hint)
    return ModelSpec(name, path)


def file_of(name: str, entry: ModelEntry, *, path_of: PathOf) -> Path:
    """The file of an entry that is no provider's, whether it is there or not.

    Raises ConfigError for one that is there and is not what was verified, or not what the catalogue names.
    """
    if entry.shipped is not None:
        return SHIPPED / entry.shipped
    try:
        return path_of(expanded(entry.path or "") if entry.hub is None else entry.hub)
    except AnotherFile as error:
        raise ConfigError(error.message, hint=f"localfusion models pull {name}") from error


def unknown(kind: Literal["model", "preset"], name: str, names: list[str], models: ModelsFile) -> ConfigError:
    """The error for a name that no model, or no preset, has."""
    other: Mapping[str, object] = models.presets if kind == "model" else models.models
    if name in other:
        hint = f"{name} is a {'preset' if kind == 'model' else 'model'}; the {kind}s are {', '.join(names)}"
    elif near := get_close_matches(name, names, n=3, cutoff=0.5):
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"the {kind}s in {models.name} are {', '.join(names) or 'none'}"
    return ConfigError(f"unknown {kind} {name!r}", hint=hint)


def file_spec(name: str, path: Path, entry: ModelEntry, n_ctx: int | Literal["auto"] | None = None) -> ModelSpec:
    """How the file of a model is loaded."""
    return ModelSpec(
        name=name,
        path=path,
        n_ctx=entry.n_ctx if n_ctx is None else n_ctx,
        n_batch=entry.n_batch,
        n_ubatch=entry.n_ubatch,
        flash_attn=entry.flash_attn,
        kv_type=entry.kv_type,
        use_mmap=entry.use_mmap,
        n_threads=entry.n_threads,
        n_gpu_layers=entry.n_gpu_layers,
        embeddings=entry.embeddings,
    )


def _remote(name: str, entry: ModelEntry, provider: ProviderEntry, n_ctx: int | Literal["auto"] | None) -> RemoteModel:
    window = entry.n_ctx if n_ctx is None else n_ctx
    prices = entry.prices
    return RemoteModel(
        name=name,
        provider=ProviderSpec(
            name=entry.provider or "",
            base_url=provider.base_url,
            key_variable=provider.key or "",
            structured=provider.structured,
            timeout_s=provider.timeout_s,
            max_retries=provider.max_retries,
        ),
        model=entry.model or "",
        n_ctx=REMOTE_N_CTX if window == "auto" else window,
        prices=None if prices is None else Prices(prices.prompt, prices.completion, prices.cached),
    )
