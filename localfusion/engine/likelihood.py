"""The logarithms of probabilities of tokens, and which of them stand in the text that is shown.

The probabilities are the model's own: of its logits as they come. Not here: choosing tokens, making text of them.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from localfusion.engine.llama import Vocabulary
from localfusion.engine.sampling import sum_of_exponents, top_k
from localfusion.messages import Likely, TokenLogprobs

LEAST = -9999.0
"""What stands for minus infinity, which JSON cannot write."""


def logprobs_of(logits: NDArray[np.float32], token: int, *, n_top: int, vocabulary: Vocabulary) -> TokenLogprobs:
    """The token that was chosen from these logits (n_vocab), and the `n_top` likeliest there."""
    highest = logits.max()
    total = float(highest) + float(np.log(sum_of_exponents(logits, highest)))

    def likely(token: int) -> Likely:
        return Likely(vocabulary.token_bytes(token), max(float(logits[token]) - total, LEAST))

    top = top_k(logits, n_top).tolist() if n_top else []
    return TokenLogprobs(likely(token), tuple(map(likely, top)))


class ShownTokens:
    """Tokens of the content in the order they are written, each let out once the text that it completes is shown.

    A token that ends inside a character, or whose text is held back, goes with the next that says more. One that a
    stop string cuts goes too; those behind it do not.
    """

    def __init__(self) -> None:
        self._silent: list[TokenLogprobs] = []
        self._waiting: list[tuple[int, int, list[TokenLogprobs]]] = []
        self._n_written = self._n_shown = 0

    def write(self, token: TokenLogprobs, text: str) -> None:
        """A token and the text of the content that is there now that it is."""
        self._silent.append(token)
        if text:
            start, self._n_written = self._n_written, self._n_written + len(text)
            self._waiting.append((start, self._n_written, self._silent))
            self._silent = []

    def begin(self, text: str, token: TokenLogprobs) -> None:
        """The first text of the content behind thinking: of its token only what is shown, and nothing before it."""
        self._silent = []
        end = text.encode()
        if token.chosen.token.endswith(end):
            token = replace(token, chosen=replace(token.chosen, token=end))
        self.write(token, text)

    def show(self, text: str, *, is_last: bool = False) -> tuple[TokenLogprobs, ...]:
        """The tokens of `text`, which is shown now; with the last also the one that is shown in part."""
        self._n_shown += len(text)
        shown: list[TokenLogprobs] = []
        while self._waiting and (
            self._waiting[0][1] <= self._n_shown or (is_last and self._waiting[0][0] < self._n_shown)
        ):
            shown += self._waiting.pop(0)[2]
        return tuple(shown)
