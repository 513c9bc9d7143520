"""What a worker makes of a request before it evaluates anything: the rendered prompt and its token ids.

Also the text that prompts are made of. A file is opened for its vocabulary and chat template alone.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import llama_cpp

from localfusion.engine.chat import ChatTemplate
from localfusion.engine.llama import LoadError, Vocabulary, send_log_to
from localfusion.messages import GenerateRequest, Message, ToolSpec

_WORDS = """the a of and in to is was on by at from with that this which where when after before under over between
harbour light keeper stone river tide boat rope wall hill road house market bell tower lamp glass iron copper salt
winter summer morning evening storm wind rain snow year month day hour north south east west long short high low old
new first last seven twelve forty hundred thousand built burned raised lowered moved counted measured painted sold
bought kept found lost named opened closed repaired council letter map chart record ledger measure height depth
length weight colour price number distance"""
WORDS = _WORDS.split()
"""Ordinary words, of which random prose is made."""


class Reader:
    """The vocabulary and the chat template of a file, without its weights."""

    def __init__(self, path: Path) -> None:
        send_log_to(lambda _: None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._weights = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._weights:
            raise LoadError("llama.cpp could not load its vocabulary")
        self._vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(self._weights))
        template = llama_cpp.llama_model_chat_template(self._weights, None)
        self._template = ChatTemplate(
            template.decode() if template else None,
            bos=self._vocabulary.token_text(self._vocabulary.bos),
            eos=self._vocabulary.token_text(self._vocabulary.eos),
            special_tokens=self._vocabulary.control_texts(),
        )

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """The text that a model without thinking is given."""
        return self._template.render_prompt(tuple(messages), tools=tuple(tools), thinking=False).text

    def ids(self, text: str) -> list[int]:
        """The token ids of rendered text."""
        return self._vocabulary.tokenize(text, parse_special=True)

    def prompt_ids(self, request: GenerateRequest) -> list[int]:
        """The token ids of a request that continues nothing."""
        return self.ids(self.prompt(request.messages, request.tools))

    def prose(self, n_tokens: int, *, seed: int) -> str:
        """Random prose of `n_tokens` tokens, or a word more; every seed begins differently."""
        writer = random.Random(seed)
        pieces = [f"Note {seed}."]
        n_written = len(self.ids(pieces[0]))
        while n_written < n_tokens:
            for word in sentence(writer).split():
                if n_written < n_tokens:
                    pieces.append(word)
                    n_written += len(self.ids(f" {word}"))
        return " ".join(pieces)


def sentence(writer: random.Random) -> str:
    """Six to fourteen words with a capital and a full stop."""
    return " ".join(writer.choices(WORDS, k=writer.randint(6, 14))).capitalize() + "."
