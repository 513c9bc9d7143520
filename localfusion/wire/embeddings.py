"""The body of POST /embeddings. Which models there are, and how long their vectors, is not known here."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from localfusion.wire.asked import UNSUPPORTED_VALUE, Asked, text_or_other
from localfusion.wire.content import Words
from localfusion.wire.fusion import ModelName


def _no_tokens(value: object) -> object:
    if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
        raise PydanticCustomError(UNSUPPORTED_VALUE, "must be texts: arrays of tokens are not supported")
    return value


Text = Annotated[Words, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=2048)]


class EmbeddingsRequest(Asked):
    """The whole body; `dimensions` can only be what the model's vectors have."""

    model: ModelName
    input: Annotated[
        Annotated[Annotated[Text, Tag("text")] | Annotated[Texts, Tag("other")], Discriminator(text_or_other)],
        BeforeValidator(_no_tokens),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """What is to become vectors, in order."""
        return [self.input] if isinstance(self.input, str) else self.input
