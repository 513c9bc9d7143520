"""A run on a terminal: a row for each panelist and the judge, redrawn while it lasts. Holds no state but the view."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from localfusion.cli.plain import line
from localfusion.cli.terminal import head, printable, printable_text, tail
from localfusion.cli.view import Row, RunView, advance
from localfusion.events import Event

FRAMES_PER_SECOND = 8
ANSWER_LINES = 8
STYLES = {"done": "green", "failed": "red", "waiting": "dim", "loading": "dim", "searching": "cyan", "thinking": "dim"}

Emit = Callable[[Event], None]


@contextmanager
def shown(
    console: Console, *, history: Iterable[Event] = (), clock: Callable[[], float] = time.monotonic
) -> Iterator[Emit]:
    """Show the events given to the yielded function: live on a terminal, else one plain line each.

    `history` is what a resumed run said before; it is on the screen from the start.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda event: _print_line(console, event)
        return
    view = RunView()
    for event in history:
        view = advance(view, event, now_s=clock())

    def emit(event: Event) -> None:
        nonlocal view
        view = advance(view, event, now_s=clock())

    with Live(
        get_renderable=lambda: drawing(view, width=console.width, now_s=clock()),
        console=console,
        refresh_per_second=FRAMES_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield emit
        view = _settled(view)


def drawing(view: RunView, *, width: int, now_s: float) -> RenderableType:
    """The whole picture of a view, no wider than `width`."""
    parts: list[RenderableType] = [Text(head(view.question, width - 1), style="bold")]
    if view.reading:
        parts.append(Text(head(view.reading, width - 1), style="dim"))
    if view.sources:
        parts.append(Text(head(f"searching {', '.join(view.sources)}", width - 1), style="dim"))
    parts.append(_table(view, width, now_s))
    parts += [Text(f"warning: {printable(warning)}", style="yellow") for warning in view.warnings]
    if view.answer:
        lines = Text(printable_text(view.answer)).wrap(Console(width=width, stderr=True), width)[-ANSWER_LINES:]
        parts += [Text(), *lines]
    return Group(*parts)


def _settled(view: RunView) -> RunView:
    """What stays on the screen: the rows and warnings; the answer follows on its own."""
    return replace(view, answer="", reading="")


def _table(view: RunView, width: int, now_s: float) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis")
    model_width = min(max((len(row.model) for row in view.rows), default=0), max(width // 4, 8))
    id_width = max((len(row.id) for row in view.rows), default=0)
    room = max(width - id_width - model_width - 9 - 7 - 8, 1)
    for row in view.rows:
        table.add_row(*_cells(row, model_width=model_width, room=room, now_s=now_s))
    return table


def _cells(row: Row, *, model_width: int, room: int, now_s: float) -> list[Text]:
    style = STYLES.get(row.state, "")
    seconds = f"{row.seconds(now_s):.1f} s" if row.started_s is not None else ""
    what = head(row.detail, room) if row.detail or (row.state == "done" and not row.text) else tail(row.text, room)
    if row.state == "done" and row.text:
        what = head(row.text, room)
    return [
        Text(row.id, style="bold"),
        Text(head(row.model, model_width)),
        Text(row.state, style=style),
        Text(seconds, style="dim"),
        Text(what),
    ]


def _print_line(console: Console, event: Event) -> None:
    if (text := line(event)) is not None:
        console.print(Text(text), soft_wrap=True)
