"""A folder of random documents on a few subjects, and questions that a search finds something for."""

import random
from pathlib import Path

from localfusion.messages import GenerateRequest
from scripts.engine_bench.prompts import sentence

SUBJECTS = ("the lighthouse of Skerry", "the tide mill", "the salt market", "the old harbour wall", "the copper bell")
QUESTION = f"What do the sources say about {SUBJECTS[0]} and {SUBJECTS[1]}, and where do they differ?"
QUERIES = tuple(f"height of {subject}" for subject in SUBJECTS[:3])
"""What panelists search for: a model of random weights would not think of it."""
DISTINCT = 20
"""Characters that tell the queries apart: a step may be too short for all of one."""
N_DOCUMENTS, N_PARAGRAPHS = 12, 4


def write_documents(folder: Path) -> Path:
    """Twelve files, each of four paragraphs that name one subject in every second sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = random.Random(0)
    for number in range(N_DOCUMENTS):
        subject = SUBJECTS[number % len(SUBJECTS)]
        paragraphs = [_paragraph(writer, subject) for _ in range(N_PARAGRAPHS)]
        (folder / f"{number}.md").write_text(f"# On {subject}\n\n" + "\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return folder


def _paragraph(writer: random.Random, subject: str) -> str:
    facts = [f"The height of {subject} is {writer.randint(10, 99)} metres. {sentence(writer)}" for _ in range(8)]
    return " ".join(facts)


def unasked(request: GenerateRequest) -> tuple[str, ...]:
    """The queries that a conversation has not made yet; the tools refuse to make one twice."""
    turns = [message for message in request.messages if message.role == "assistant"]
    written = "\n".join(f"{turn.content}{turn.tool_calls}" for turn in turns)
    return tuple(query for query in QUERIES if query[:DISTINCT] not in written)
