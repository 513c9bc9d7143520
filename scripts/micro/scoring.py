"""Whether an answer about an invented world is right and rightly cited: pure functions over outcomes.

An answer is what it quotes: prose without a checked quotation claims nothing here but "do not say".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from localfusion.analysis import Citation
from localfusion.outcome import Outcome
from scripts.micro.world import Fact, Question, World

NOT_SAID = "The sources do not say"


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer to one question: `score` from 0 to 1, and whether its search brought a gold sentence."""

    score: float
    found: bool


@dataclass(frozen=True, slots=True)
class Key:
    """What is needed to grade within one world: the facts, and which address each document got."""

    facts: tuple[Fact, ...]
    files: Mapping[str, str]

    @classmethod
    def of(cls, world: World, files: Mapping[str, str]) -> "Key":
        """The key of a world that was written as `files`."""
        return cls(world.facts, files)

    def stated(self, citation: Citation) -> Fact | None:
        """The fact that a verified citation states, if it states one and cites a document that holds it."""
        for fact in self.facts:
            quoted = citation.quote.strip().rstrip(".")
            whole = quoted and quoted in fact.sentence and fact.value in quoted
            if whole and citation.support != "not_found" and citation.url.endswith("/" + self.files[fact.document]):
                return fact
        return None


def grade(question: Question, answer: str, citations: Sequence[Citation], key: Key) -> float:
    """1 for all that was asked and nothing else, 0 for a wrong or an empty answer.

    Answerable: a gold fact and no other. Contradictory: every value and no other fact. Unanswerable: says so and
    quotes nothing. Open: the harmonic mean of precision and recall over (attribute, value).
    """
    if question.kind == "unanswerable":
        return float(not citations and answer.strip().startswith(NOT_SAID))
    stated = [key.stated(citation) for citation in citations]
    said = {(fact.attribute, fact.value) for fact in stated if fact is not None and fact.entity == question.entity}
    wrong = sum(fact is None or fact.entity != question.entity for fact in stated)
    gold = {(fact.attribute, fact.value) for fact in question.gold}
    if question.kind == "open":
        return _f1(len(said & gold), len(said) + wrong, len(gold))
    return float(wrong == 0 and bool(said) and said <= gold and (question.kind == "answerable" or said == gold))


def search_found(question: Question, texts: Iterable[str]) -> bool:
    """Whether what was read holds a sentence for every gold value (for an open question: for any)."""
    read = " ".join(" ".join(text.split()) for text in texts)
    shown = {fact.value for fact in question.gold if fact.sentence in read}
    return bool(shown) if question.kind == "open" else shown == set(question.values)


def grade_outcome(question: Question, outcome: Outcome, key: Key) -> dict[str, Graded]:
    """The grade of each panelist by id, of the final answer ("panel") and of the analysis ("judge")."""
    grades: dict[str, Graded] = {}
    for response in outcome.responses:
        texts = [passage.text for step in response.steps for passage in step.passages]
        score = grade(question, response.content, response.citations, key)
        grades[response.id] = Graded(score, search_found(question, texts))
    read = [p.text for response in outcome.responses for step in response.steps for p in step.passages]
    found = search_found(question, read)
    grades["panel"] = Graded(grade(question, outcome.answer, outcome.citations, key), found)
    if question.kind == "contradictory":
        grades["judge"] = Graded(float(_both_stances(question, outcome)), found)
    return grades


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval (normal approximation of the mean's standard error)."""
    count = len(differences)
    mean = sum(differences) / count
    variance = sum((difference - mean) ** 2 for difference in differences) / max(count - 1, 1)
    margin = 1.96 * math.sqrt(variance / count)
    return mean, mean - margin, mean + margin


def _both_stances(question: Question, outcome: Outcome) -> bool:
    if outcome.analysis is None:
        return False
    return any(
        all(any(value in stance.stance for stance in found.stances) for value in question.values)
        for found in outcome.analysis.contradictions
    )


def _f1(right: int, said: int, gold: int) -> float:
    return 2 * right / (said + gold) if right else 0.0
