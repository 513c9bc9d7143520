"""What the server tells of models, vectors and itself: OpenAI's shape, with what OpenRouter's clients need."""

from typing import Literal

from pydantic import BaseModel, Field


class Pricing(BaseModel):
    """US dollars for one token, as text."""

    prompt: str = "0"
    completion: str = "0"


class Architecture(BaseModel):
    """What goes in and what comes out."""

    modality: str = "text->text"
    input_modalities: list[str] = Field(["text"])
    output_modalities: list[str] = Field(["text"])


class Provider(BaseModel):
    """Where the model runs."""

    is_moderated: bool = False
    context_length: int | None = None


class ModelLinks(BaseModel):
    """Where more is told of the model."""

    details: str


class ModelCard(BaseModel):
    """One model, or one panel under one name."""

    id: str = Field(description="What a request names.")
    object: Literal["model"] = "model"
    created: int = Field(0, description="Not known of a file: 0.")
    owned_by: str = "localfusion"
    name: str
    canonical_slug: str
    description: str = ""
    context_length: int | None = Field(None, description="Tokens of context; null where it is the file's own.")
    architecture: Architecture = Architecture()
    pricing: Pricing = Pricing()
    top_provider: Provider = Provider()
    per_request_limits: None = None
    supported_parameters: list[str] = Field([])
    default_parameters: None = None
    supported_voices: None = None
    links: ModelLinks


class ListLinks(BaseModel):
    """All models are on one page."""

    next: None = None


class ModelList(BaseModel):
    """Everything that a request may name as its model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    links: ListLinks = ListLinks()
    total_count: int


class EmbeddingItem(BaseModel):
    """The vector of one text: numbers, or the bytes of float32 numbers in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int
    cost: float = 0.0


class EmbeddingList(BaseModel):
    """The vectors of the texts of one request, in their order."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str


class Deleted(BaseModel):
    """A response that is no longer kept."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
