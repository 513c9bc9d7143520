"""How the server says that something went wrong: OpenAI's body, and OpenRouter's. No error is known here."""

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str = Field(description="One or two sentences: what is wrong, and what to do about it.")
    type: str = Field(description="The kind of error: whose it is.")
    param: str | None = Field(None, description="The field of the request that is wrong, where it is one.")
    code: str | None = Field(None, description="What is wrong, for programs.")
    failure_reason: str | None = Field(None, description="Why a deliberation came to nothing.")


class ErrorBody(BaseModel):
    """Every error under /v1."""

    error: ErrorDetail


class RouterMetadata(BaseModel):
    """What OpenRouter's shape has no place for."""

    error_type: str = Field(description="The kind of error, by OpenRouter's own words.")
    code: str | None = Field(None, description="What is wrong, for programs.")
    param: str | None = Field(None, description="The field of the request that is wrong, where it is one.")
    type: str = Field(description="The kind of error: whose it is.")
    failure_reason: str | None = Field(None, description="Why a deliberation came to nothing.")


class RouterDetail(BaseModel):
    """What went wrong, as OpenRouter's clients read it."""

    code: int = Field(description="The status of the reply.")
    message: str = Field(description="One or two sentences: what is wrong, and what to do about it.")
    metadata: RouterMetadata


class RouterErrorBody(BaseModel):
    """Every error under /api/v1."""

    error: RouterDetail
