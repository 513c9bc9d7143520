"""What a model wrote at an endpoint, as its own layers write it: a framed call, an answer, or JSON. Knows no network.

Whatever was not allowed now is MalformedOutput; a text may be shown while it comes, a call is not.
"""

import json
from collections.abc import Iterator

from localfusion.errors import MalformedOutput
from localfusion.messages import Delta, FinishReason, GenerateRequest, Json, RemoteModel
from localfusion.providers.chunks import CallPiece, Chunk
from localfusion.providers.step_decoder import BadEscape, StepDecoder, unfenced
from localfusion.providers.turns import RESULT_TOOL, framed_call, in_steps

_NOT_WRITTEN = dict.fromkeys((*range(9), *range(11, 32), 127))
MAX_ARGUMENT_CHARACTERS = 1000


def cleaned(text: str) -> str:
    """A text without control characters; line breaks and tabs stay."""
    return text.translate(_NOT_WRITTEN)


class Reading:
    """The text of one completion, piece by piece, and at its end what it is."""

    def __init__(self, request: GenerateRequest, model: RemoteModel) -> None:
        self._request = request
        self._model = model.name
        self._decoder = StepDecoder() if in_steps(request, model) else None
        self._raw: list[str] = []
        self._shown: list[str] = []
        self._thinking: list[str] = []
        self._calls: dict[int, list[CallPiece]] = {}

    @property
    def thinking(self) -> str:
        return "".join(self._thinking)

    @property
    def written(self) -> str:
        """All that came, thinking and arguments included."""
        calls = (piece.name + piece.arguments for pieces in self._calls.values() for piece in pieces)
        return "".join([*self._thinking, *self._raw, *calls])

    def feed(self, chunk: Chunk) -> Iterator[Delta]:
        """What of a piece can be shown. Raises MalformedOutput."""
        if thinking := cleaned(chunk.thinking):
            self._thinking.append(thinking)
            yield Delta("thinking", thinking)
        for piece in chunk.calls:
            self._calls.setdefault(piece.index, []).append(piece)
        if chunk.content:
            self._raw.append(chunk.content)
            shown = cleaned(self._decoded(chunk.content))
            if shown:
                self._shown.append(shown)
                yield Delta("content", shown)

    def finish(self, reason: FinishReason) -> tuple[str, str]:
        """The content, and what of it was not shown and may be. Raises MalformedOutput."""
        if self._calls:
            name, argument = self._called()
            if name != RESULT_TOOL or self._request.output.schema is None:
                return self._call(name, argument), ""
            result = cleaned(unfenced(argument))
            return result, result
        shown = "".join(self._shown)
        if self._decoder is None or self._decoder.kind in ("plain", "ended"):
            return (unfenced(shown) if self._request.output.schema is not None else shown), ""
        if self._decoder.kind == "answer":
            if reason != "length":
                raise self._malformed("ended in the middle of its answer")
            return shown, ""
        return self._whole_step(reason)

    def _decoded(self, text: str) -> str:
        if self._decoder is None:
            return text
        try:
            return self._decoder.feed(text)
        except BadEscape as error:
            raise self._malformed("wrote an answer that is not JSON") from error

    def _called(self) -> tuple[str, str]:
        """The name and the argument's JSON of the first call; any further one is not made."""
        pieces = self._calls[min(self._calls)]
        return "".join(piece.name for piece in pieces), "".join(piece.arguments for piece in pieces)

    def _whole_step(self, reason: FinishReason) -> tuple[str, str]:
        """A step that is no answer, or was not seen to be one."""
        raw = "".join(self._raw)
        text = cleaned(unfenced(raw))
        wants_result = self._request.output.schema is not None
        step = _object_in(text)
        if step is None:
            if (wants_result and reason == "length") or not text.lstrip().startswith("{"):
                return text, text
            raise self._malformed("wrote a step that is not JSON")
        inner = step.get("step")
        step = inner if isinstance(inner, dict) else step
        answer, name = step.get("answer"), step.get("call")
        if wants_result and name is None:
            result = json.dumps(step.get("result", step), ensure_ascii=False)
            return result, result
        if isinstance(answer, str):
            return cleaned(answer), cleaned(answer)
        if not isinstance(name, str):
            raise self._malformed("wrote a step that is neither a call nor an answer")
        return self._call(name, json.dumps(step)), ""

    def _call(self, name: str, arguments: str) -> str:
        """A call in its frame. Raises MalformedOutput for one that may not be made now, or breaks off."""
        if name not in self._request.output.calls:
            raise self._malformed("called a tool that it may not call now")
        tool = next((tool for tool in self._request.tools if tool.name == name), None)
        values = _object_in(arguments)
        value = values.get(tool.parameter) if tool is not None and values is not None else None
        if not isinstance(value, str):
            raise self._malformed("wrote a tool call that breaks off")
        allowed = self._request.output.calls[name]
        argument = value if value in allowed else " ".join(cleaned(value).split())
        if (allowed and argument not in allowed) or len(argument) > max(MAX_ARGUMENT_CHARACTERS, *map(len, allowed), 0):
            raise self._malformed(f"called {name} with an argument that it may not have")
        return framed_call(name, argument)

    def _malformed(self, what: str) -> MalformedOutput:
        return MalformedOutput(self._model, f"{self._model} {what}", text=self.written)


def _object_in(text: str) -> dict[str, Json] | None:
    try:
        value: Json = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
