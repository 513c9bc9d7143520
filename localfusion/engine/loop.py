"""Runs all requests of one loaded file together: one `step` evaluates one batch over all active sequences.

No pipe and no process here: the worker feeds it commands and sends on what it returns, tests drive it
directly. Continuous batching: a request joins and leaves between any two steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from localfusion.engine.batch import plan_batch
from localfusion.engine.chat import ChatTemplate
from localfusion.engine.constrain import GrammarError, Grammars
from localfusion.engine.drafting import LONGEST
from localfusion.engine.generation import Generation, Writing
from localfusion.engine.llama import Context, DecodeError, Weights, build_name
from localfusion.engine.pace import Pace, ThreadPace
from localfusion.engine.protocol import Counted, CountPrompt, Failed, Generate, Output, Overflowed, Refused, Reply
from localfusion.engine.sampling import LogitsError
from localfusion.engine.sequences import Slot, Slots, prompt_ids
from localfusion.engine.state_cache import StateCache, content_key
from localfusion.engine.template_sandbox import TemplateError, fixed_time, local_time
from localfusion.engine.tool_syntax import adapt_to_tools, derive_function_syntax
from localfusion.messages import Completion, GenerateRequest, ModelInfo, ModelSpec, Progress, Usage

NO_SLOT = 1
"""What llama_decode returns where no cells are free."""

PATIENCE_S = 0.01
"""How long a grammar is waited for before the next look at what else there is to do."""


@dataclass(slots=True)
class Waiting:
    """A request that is rendered and waits for a slot, or for a beginning that another is reading."""

    id: int
    request: GenerateRequest
    writing: Writing
    ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a generation has in a batch: tokens of its own, a draft behind them, and the rows that have logits."""

    n_tokens: int
    draft: list[int]
    rows: list[int]


class Loop:
    """A loaded file and the requests over it.

    `draft_pace` decides whether steps are taken with drafts, `fill_pace` whether gaps between sequences are filled.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tools: Mapping[str, str],
        *,
        states: StateCache | None = None,
        draft_pace: Pace[bool] | None = None,
        fill_pace: Pace[bool] | None = None,
    ) -> None:
        self._weights = Weights(
            spec.path,
            n_gpu_layers=spec.n_gpu_layers,
            device=spec.device,
            use_mmap=bool(spec.use_mmap),
            use_extra_bufts=spec.use_extra_bufts,
        )
        self.vocabulary = self._weights.vocabulary
        self.context = Context(self._weights, spec)
        self._spec = spec
        self._states = states
        self._slots = Slots(
            self.context,
            spec.n_parallel,
            turn_marks=self.vocabulary.control,
            states=states,
            grid=spec.n_batch if spec.deterministic else 1,
        )
        self.template = ChatTemplate(
            self._weights.facts.chat_template,
            bos=self.vocabulary.token_text(self.vocabulary.bos),
            eos=self.vocabulary.token_text(self.vocabulary.eos),
            special_tokens=self.vocabulary.control_texts(),
            now=fixed_time if spec.deterministic else local_time,
        )
        self.vocabulary.end_at(self.template.turn_end)
        ends = [self.vocabulary.token_text(token) for token in self.vocabulary.eog]
        syntax = adapt_to_tools(self.template, tools, ends=ends)
        if syntax is not None:
            self.vocabulary.go_on_after("".join(syntax.before.values()))
        function_syntax = derive_function_syntax(self.template, ends=ends)
        if function_syntax is not None:
            self.vocabulary.go_on_after(f"{function_syntax.before}{function_syntax.between}")
        facts = self._weights.facts
        self.info = ModelInfo(
            description=facts.description,
            n_ctx=self.context.n_ctx,
            n_ctx_train=facts.n_ctx_train,
            n_vocab=self.vocabulary.n_tokens,
            n_params=facts.n_params,
            size_bytes=facts.size_bytes,
            special_tokens=self.vocabulary.special_tokens(),
            tool_syntax=syntax,
            function_syntax=function_syntax,
        )
        self._waiting: list[Waiting] = []
        self._active: list[Generation] = []
        self._turn = 0
        self._fillers: list[Slot] = []
        self._has_gaps = False
        self._fill_pace = fill_pace or Pace((True, False))
        self._draft_pace = draft_pace or Pace((True, False))
        self._thread_pace = ThreadPace()
        self._most_threads = self.context.n_threads
        self._grammars = Grammars(self.vocabulary)
        self._can_draft = not (facts.only_whole_sequences or facts.has_window or spec.deterministic)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._active

    def submit(self, command: Generate) -> list[Reply]:
        """Render the prompt and queue the request; a Failed where that cannot be done."""
        request, started = command.request, monotonic()
        try:
            prompt = self.template.render_prompt(
                request.messages, tools=request.tools, functions=request.functions, thinking=request.thinking
            )
        except TemplateError as error:
            return [_untold(command.id, error)]
        constraint = None
        if request.grammar is not None:
            constraint = self._grammars.constraint(request.grammar, is_callers=request.has_callers_schema)
        writing = Writing(prompt, constraint, started)
        self._waiting.append(Waiting(command.id, request, writing))
        return []

    def count_prompt(self, command: CountPrompt) -> Reply:
        """The length in tokens of a conversation's prompt; a Failed where the template does not take it."""
        try:
            prompt = self.template.render_prompt(command.messages, tools=command.tools, thinking=False)
        except TemplateError as error:
            return _untold(command.id, error)
        return Counted(command.id, (len(prompt_ids(self.vocabulary, prompt.text, None)),))

    def cancel(self, id: int) -> list[Reply]:
        """End a request with what it has; nothing where it has ended already."""
        for waiting in [w for w in self._waiting if w.id == id]:
            self._waiting.remove(waiting)
            if waiting.writing.constraint is not None:
                waiting.writing.constraint.give_up()
            return [Output(id, Completion(content="", thinking="", finish_reason="cancelled", usage=Usage()))]
        for generation in [g for g in self._active if g.id == id]:
            generation.finish("cancelled")
        return self._retire()

    def set_threads(self, n_threads: int) -> None:
        """Use at most so many threads from the next batch on; nothing where the spec's own number shapes the result."""
        if not self._spec.deterministic:
            self._most_threads = n_threads

    def step(self) -> list[Reply]:
        """Let the waiting in, evaluate one batch, choose tokens; returns all there is to tell."""
        replies = self._admit() + self._begin_texts()
        if not self._active:
            self._wait_for_a_schema()
            return replies
        started = monotonic()
        shares = self._fill_batch()
        if not any(share.n_tokens for share in shares):  # those that are left wait for their grammars
            return replies
        has_copied = self.context.is_about_to_copy
        try:
            self._decode(sum(share.n_tokens + len(share.draft) for share in shares) + len(self._fillers))
        except DecodeError as error:
            return replies + self._give_up(error, shares)
        finally:
            for slot in self._fillers:
                self.context.truncate(slot.index, slot.n_past)
        if not has_copied:
            self._note_reading(shares, monotonic() - started)
        n_before = sum(generation.n_written for generation in self._active)
        is_measured = not any(generation.is_reading for generation in self._active)
        stepped = list(self._active)
        for generation, share in zip(stepped, shares, strict=True):
            replies += self._move_on(generation, share)
        if is_measured:
            n_chosen = sum(generation.n_written for generation in stepped) - n_before
            has_drafts = any(share.draft for share in shares)
            self._draft_pace.note(has_drafts, tokens=n_chosen, seconds=monotonic() - started)
            if self._has_gaps:
                self._fill_pace.note(bool(self._fillers), tokens=n_chosen, seconds=monotonic() - started)
        return replies + self._retire()

    def _decode(self, n_tokens: int) -> None:
        """Evaluate the batch, on as many threads as have proved fastest for its size; raises DecodeError."""
        if self._spec.deterministic:
            self.context.decode()
            return
        most = self._most_threads
        n_threads = self._thread_pace.choose(n_tokens, most=most)
        self.context.set_threads(n_threads)
        started, has_copied = monotonic(), self.context.is_about_to_copy
        self.context.decode()
        if not has_copied:
            self._thread_pace.note(n_tokens, most=most, n_threads=n_threads, seconds=monotonic() - started)

    def _note_reading(self, shares: Sequence[Share], seconds: float) -> None:
        """What reading costs, by its part of a step's tokens: states are kept where the disk takes less."""
        n_read = sum(s.n_tokens for g, s in zip(self._active, shares, strict=True) if g.is_reading)
        n_all = sum(share.n_tokens + len(share.draft) for share in shares)
        if self._states is not None and n_read:
            self._states.note_reading(n_read, seconds * n_read / n_all)

    def _admit(self) -> list[Reply]:
        replies: list[Reply] = []
        for waiting in list(self._waiting):
            own = self._slots.find(waiting.request.sequence)
            if (own is not None and own.is_busy) or self._would_keep_others_out(waiting):
                continue
            if waiting.ids is None:
                kept = None if self._spec.deterministic else own
                waiting.ids = prompt_ids(self.vocabulary, waiting.writing.prompt.text, kept)
            if len(waiting.ids) >= self.context.n_ctx:
                self._waiting.remove(waiting)
                replies.append(Overflowed(waiting.id, len(waiting.ids), self.context.n_ctx))
                continue
            slot = self._slots.try_take(waiting.request.sequence, waiting.ids)
            if slot is not None:
                self._waiting.remove(waiting)
                self._active.append(self._to_generation(waiting, slot))
        return replies + self._retire()

    def _would_keep_others_out(self, waiting: Waiting) -> bool:
        """A caller's schema takes the last place only once it is compiled: it may be one that takes long."""
        constraint = waiting.writing.constraint
        is_last_place = len(self._active) + 1 >= self._spec.n_parallel
        is_slow = waiting.request.has_callers_schema and constraint is not None and not constraint.is_ready
        return is_slow and is_last_place

    def _to_generation(self, waiting: Waiting, slot: Slot) -> Generation:
        generation = Generation(
            waiting.id,
            request=waiting.request,
            slot=slot,
            writing=waiting.writing,
            vocabulary=self.vocabulary,
            n_ctx=self.context.n_ctx,
        )
        generation.last_turn = self._turn
        return generation

    def _begin_texts(self) -> list[Reply]:
        """Append what grammars force to the prompts that the next batch may finish.

        Grammars are compiled while prompts are read. Where there is nothing else to do one is waited for, but only for
        a moment at a time: somebody may come with a request that needs none.
        """
        replies: list[Reply] = []
        held = [g for g in self._active if self._is_held(g)]
        if held and len(held) == len(self._active) and not any(g.can_begin for g in held):
            held[0].wait(PATIENCE_S)
        for generation in held:
            if generation.can_begin:
                try:
                    generation.begin()
                except GrammarError as error:
                    replies.append(self._refuse(generation, error))
        return replies + self._retire()

    def _wait_for_a_schema(self) -> None:
        """Give the first of those that keep out until they are compiled a moment, now that there is nothing else."""
        for waiting in self._waiting[:1]:
            if waiting.writing.constraint is not None:
                waiting.writing.constraint.wait(PATIENCE_S)

    def _is_held(self, generation: Generation) -> bool:
        return not generation.has_begun and generation.n_pending <= self.context.n_batch

    def _fill_batch(self) -> list[Share]:
        """Fill the context's batch; for each active generation what it gave."""
        reading = [g for g in self._active if g.is_reading and not self._is_held(g)]
        reading.sort(key=lambda generation: (generation.last_turn, generation.id))
        writing = [g for g in self._active if not g.is_reading and not self._is_held(g)]
        counts = plan_batch([g.n_ready for g in writing], [g.n_ready for g in reading], n_batch=self.context.n_batch)
        taken = {g.id: n for g, n in zip([*writing, *reading], [*counts[0], *counts[1]], strict=True)}
        if reading and counts[1][0]:
            self._turn += 1
            reading[0].last_turn = self._turn
        left = self.context.n_batch - sum(taken.values())
        silent = self._choose_fillers([g.slot for g in self._active if writing and taken.get(g.id)], left)
        left -= len(silent)
        room = 0 if reading or not self._can_draft else min(LONGEST, left)
        if room and not self._draft_pace.choose():
            room = 0
        shares, previous = [], -1
        self._active.sort(key=lambda generation: generation.slot.index)  # as `Context` has it
        for generation in self._active:
            n_taken = taken.get(generation.id, 0)
            for slot in [slot for slot in silent if previous < slot.index <= generation.slot.index]:
                self.context.add(0, position=slot.n_past, sequence=slot.index, wants_logits=False)
            previous = generation.slot.index
            draft = generation.draft(room) if n_taken == generation.n_pending and room else []
            room -= len(draft)
            shares.append(Share(n_taken, draft, self._add_tokens(generation.slot, n_taken, draft)))
        return shares

    def _choose_fillers(self, speaking: Sequence[Slot], n_most: int) -> list[Slot]:
        """Slots between those of a batch that get a token of no meaning, so that it is evaluated at once, not in parts.

        Whether that is faster is measured while all of them write.
        """
        self._fillers, self._has_gaps = [], False
        silent = self._slots.silent_between(speaking) if self.context.has_streams and speaking else []
        if 0 < len(silent) <= n_most:
            is_reading = any(generation.is_reading for generation in self._active)
            self._has_gaps = True
            if self._fill_pace.fastest if is_reading else self._fill_pace.choose():
                self._fillers = silent
        return self._fillers

    def _add_tokens(self, slot: Slot, n_tokens: int, draft: Sequence[int]) -> list[int]:
        """Put the next tokens of a slot and its draft into the batch; the rows that have logits."""
        rows, last = [], len(slot.ids) - 1
        for position in range(slot.n_past, slot.n_past + n_tokens):
            row = self.context.add(
                slot.ids[position], position=position, sequence=slot.index, wants_logits=position == last
            )
            if position == last:
                rows.append(row)
        for position, token in enumerate(draft, start=slot.n_past + n_tokens):
            rows.append(self.context.add(token, position=position, sequence=slot.index, wants_logits=True))
        return rows

    def _move_on(self, generation: Generation, share: Share) -> list[Reply]:
        was_reading = generation.is_reading
        generation.slot.n_past += share.n_tokens
        self._slots.note_read(generation.slot)
        replies: list[Reply] = []
        if was_reading:
            read = min(generation.slot.n_past, generation.n_prompt)
            replies.append(Output(generation.id, Progress(read, generation.n_prompt)))
        if share.n_tokens and generation.n_pending == 0:
            try:
                n_same = generation.advance_over(share.draft, lambda n: self.context.logits(share.rows[n]))
            except GrammarError as error:
                return [self._refuse(generation, error)]
            except LogitsError as error:
                return [
                    self._fail(generation, str(error), "its file is damaged, or its numbers overflow; fetch it again")
                ]
            if n_same < len(share.draft):
                self.context.truncate(generation.slot.index, generation.slot.n_past)
        return replies + [Output(generation.id, delta) for delta in generation.take_deltas()]

    def _retire(self) -> list[Reply]:
        replies: list[Reply] = []
        for generation in [g for g in self._active if g.finish_reason is not None]:
            self._active.remove(generation)
            self._slots.release(generation.slot, generation.kept_text())
            replies += [Output(generation.id, delta) for delta in generation.take_deltas()]
            replies.append(Output(generation.id, generation.completion()))
        return replies

    def _fail(self, generation: Generation, message: str, hint: str = "") -> Reply:
        self._drop(generation)
        return Failed(generation.id, message, hint)

    def _refuse(self, generation: Generation, error: GrammarError) -> Reply:
        self._drop(generation)
        return Refused(generation.id, str(error), error.reason, error.line)

    def _drop(self, generation: Generation) -> None:
        self._active.remove(generation)
        self._slots.drop(generation.slot)

    def _give_up(self, error: DecodeError, shares: Sequence[Share]) -> list[Reply]:
        """A batch could not be evaluated: free kept conversations and try again, else fail those in the batch."""
        if error.code == NO_SLOT and self._slots.drop_idle():
            return []
        message = "llama.cpp could not evaluate the text"
        hint = f"{error}; a smaller n_ctx or n_batch may help"
        in_batch = [g for g, share in zip(self._active, shares, strict=True) if share.n_tokens]
        return [self._fail(generation, message, hint) for generation in in_batch]


def open_states(folder: Path | None, spec: ModelSpec) -> StateCache | None:
    """The states of this file and these settings in a folder; None where there is none, or no file any more."""
    if folder is None or spec.deterministic:
        return None
    try:
        return StateCache(folder, content_key(spec.path, build_name(), spec.kv_type, spec.flash_attn))
    except OSError:
        return None


def _untold(id: int, error: TemplateError) -> Failed:
    return Failed(id, str(error), "the chat template of the file does not take this conversation")
