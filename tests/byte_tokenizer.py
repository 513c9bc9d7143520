"""llguidance on a tokenizer of single bytes: what a grammar admits, byte by byte, without a model."""

from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper


class _Bytes:
    eos_token_id = 0
    bos_token_id = None
    tokens = (b"<eos>", *(bytes([byte]) for byte in range(256)), b"<call>", b"<arg>")
    special_token_ids = (0, 257, 258)

    def __call__(self, text: str | bytes) -> list[int]:
        encoded = text.encode() if isinstance(text, str) else text
        return [byte + 1 for byte in encoded]


SPECIAL_TOKENS = {"<call>": 257, "<arg>": 258}
_TOKENIZER = LLTokenizer(TokenizerWrapper(_Bytes()))


def to_ids(text: str) -> list[int]:
    """One id a byte; the two special tokens have their own."""
    ids: list[int] = []
    while text:
        special = next((name for name in SPECIAL_TOKENS if text.startswith(name)), None)
        if special is not None:
            ids.append(SPECIAL_TOKENS[special])
            text = text.removeprefix(special)
        else:
            ids += [byte + 1 for byte in text[0].encode()]
            text = text[1:]
    return ids


def admits(lark: str, text: str) -> bool:
    """Whether `text`, followed by the end, is what the grammar admits."""
    grammar = LLMatcher.grammar_from_lark(lark)
    problem = LLMatcher.validate_grammar(grammar, _TOKENIZER)
    assert not problem, problem
    matcher = LLMatcher(_TOKENIZER, grammar)
    ids = to_ids(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
