"""The items of a response while they are written: a message, a thought, a call, each told from its start to its end.

An item tells its own events and gives its own value; which items there are, and when, is `responses_reply`'s.
"""

from collections.abc import Iterator, Sequence
from typing import TypedDict

from localfusion.messages import Delta, FunctionCall, TokenLogprobs
from localfusion.wire import responses_reply as wire
from localfusion.wire.annotations import ResponsesAnnotation, UrlCitation
from localfusion.wire.logprobs import logprob_parts


class Place(TypedDict):
    """What every event of an item says of itself."""

    item_id: str
    output_index: int
    sequence_number: int


class OpenText:
    """A message that is being written, or a thought (`is_thought`)."""

    def __init__(self, id: str, output_index: int, numbers: Iterator[int], *, is_thought: bool) -> None:
        self._id = id
        self._output_index = output_index
        self._numbers = numbers
        self.is_thought = is_thought
        self.text = ""
        self._logprobs: list[TokenLogprobs] = []
        self._annotations: list[ResponsesAnnotation] = []

    def item(self, status: wire.ItemStatus = "in_progress") -> wire.MessageItem | wire.ReasoningItem:
        """The item as it is now; it has no part before there is a text."""
        if self.is_thought:
            thought = [wire.ReasoningText(text=self.text)] if self.text else []
            return wire.ReasoningItem(id=self._id, status=status, content=thought)
        is_new = status == "in_progress" and not self.text
        return wire.MessageItem(id=self._id, status=status, content=[] if is_new else [self._output_text()])

    def begin(self) -> list[wire.ResponsesEvent]:
        """The item, and its one part."""
        added = wire.ItemAdded(sequence_number=next(self._numbers), output_index=self._output_index, item=self.item())
        return [added, wire.PartAdded(**self._place(), part=self._part())]

    def write(self, delta: Delta) -> list[wire.ResponsesEvent]:
        """One more piece of the text."""
        self.text += delta.text
        if self.is_thought:
            return [wire.ReasoningDelta(**self._place(), delta=delta.text)]
        self._logprobs += delta.logprobs
        return [wire.TextDelta(**self._place(), delta=delta.text, logprobs=logprob_parts(delta.logprobs))]

    def annotate(self, found: Sequence[UrlCitation]) -> list[wire.ResponsesEvent]:
        """The citations of the whole text."""
        self._annotations = [ResponsesAnnotation.model_validate(one.model_dump()) for one in found]
        return [
            wire.AnnotationAdded(**self._place(), annotation_index=index, annotation=one)
            for index, one in enumerate(self._annotations)
        ]

    def end(self, status: wire.ItemStatus) -> list[wire.ResponsesEvent]:
        """The text, the part and the item once more, whole."""
        if self.is_thought:
            whole: wire.ResponsesEvent = wire.ReasoningDone(**self._place(), text=self.text)
        else:
            logprobs = logprob_parts(self._logprobs)
            whole = wire.TextDone(**self._place(), text=self.text, logprobs=logprobs)
        part = wire.PartDone(**self._place(), part=self._part())
        done = wire.ItemDone(
            sequence_number=next(self._numbers), output_index=self._output_index, item=self.item(status)
        )
        return [whole, part, done]

    def _part(self) -> wire.OutputText | wire.ReasoningText:
        return wire.ReasoningText(text=self.text) if self.is_thought else self._output_text()

    def _output_text(self) -> wire.OutputText:
        return wire.OutputText(
            text=self.text, annotations=list(self._annotations), logprobs=logprob_parts(self._logprobs)
        )

    def _place(self) -> Place:
        return {
            "item_id": self._id,
            "output_index": self._output_index,
            "sequence_number": next(self._numbers),
        }


def call_item(id: str, call: FunctionCall) -> wire.FunctionCallItem:
    """A call, which is told when it is whole."""
    return wire.FunctionCallItem(id=id, status="completed", call_id=call.id, name=call.name, arguments=call.arguments)


def call_events(item: wire.FunctionCallItem, output_index: int, numbers: Iterator[int]) -> list[wire.ResponsesEvent]:
    """A call from its start to its end."""
    begun = item.model_copy(update={"status": "in_progress", "arguments": ""})

    def place() -> Place:
        return {"item_id": item.id, "output_index": output_index, "sequence_number": next(numbers)}

    return [
        wire.ItemAdded(sequence_number=next(numbers), output_index=output_index, item=begun),
        wire.ArgumentsDelta(**place(), delta=item.arguments),
        wire.ArgumentsDone(**place(), name=item.name, arguments=item.arguments),
        wire.ItemDone(sequence_number=next(numbers), output_index=output_index, item=item),
    ]
