"""What a client is told of each name that a request may name as its model. Opens no file."""

from collections.abc import Iterable

from localfusion.config import ModelEntry, ModelsFile
from localfusion.messages import N_CTX_AUTO
from localfusion.wire.listings import ModelCard, ModelLinks, ModelList, Pricing, Provider

PARAMETERS = (
    "max_tokens",
    "min_p",
    "reasoning",
    "response_format",
    "seed",
    "stop",
    "structured_outputs",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
)
TOKENS_OF_PRICE = 1_000_000
"""models.yaml has prices for so many tokens, the wire for one."""


def model_list(models: ModelsFile, names: Iterable[str], *, prefix: str) -> ModelList:
    """The cards of all names, in order; `prefix` is that of the route."""
    cards = [card(models, name, prefix=prefix) for name in names]
    return ModelList(data=cards, total_count=len(cards))


def card(models: ModelsFile, name: str, *, prefix: str) -> ModelCard:
    """The card of one name: a model, an alias, or a panel."""
    target = models.aliases.get(name, name)
    entry = models.models.get(target)
    preset = models.presets.get(target.removeprefix("localfusion/"))
    n_ctx = None if entry is None else entry.n_ctx if entry.n_ctx != "auto" else N_CTX_AUTO
    return ModelCard(
        id=name,
        owned_by=_owner(entry),
        name=name,
        canonical_slug=target,
        description=entry.description if entry else preset.description if preset else "",
        context_length=n_ctx,
        pricing=_pricing(entry),
        top_provider=Provider(context_length=n_ctx),
        supported_parameters=[] if entry and entry.embeddings else list(PARAMETERS),
        links=ModelLinks(details=f"{prefix}/models/{name}"),
    )


def _owner(entry: ModelEntry | None) -> str:
    return (entry and (entry.provider or entry.family)) or "localfusion"


def _pricing(entry: ModelEntry | None) -> Pricing:
    if entry is None or entry.prices is None:
        return Pricing()
    per_token = (price / TOKENS_OF_PRICE for price in (entry.prices.prompt, entry.prices.completion))
    prompt, completion = (f"{price:.12f}".rstrip("0").rstrip(".") for price in per_token)
    return Pricing(prompt=prompt, completion=completion)
