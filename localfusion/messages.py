"""The values that cross a process or a layer: chat messages, requests to a model and what comes back.

Nothing here loads, reads or decides. Every value is frozen and can be pickled.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model asked for; both tools take exactly one text argument."""

    name: str
    arguments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is shown to a model: `parameter` is the name of its one required text argument."""

    name: str
    description: str
    parameter: str
    parameter_description: str


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function of the caller's own that a model may call: `schema` is the JSON Schema of its arguments, an object.

    `param` is what the schema is called in the request that it came with.
    """

    name: str
    description: str = ""
    schema: Mapping[str, Json] = field(default_factory=lambda: {"type": "object"})
    param: str = field(default="tools", compare=False)


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of such a function, which the caller carries out: `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `fields` is the structured twin of `content` (question, results, answers); a chat template may
    render these instead of the text, since a template is the model's own. Ordinary templates ignore them.
    `function_calls` are those of an assistant's turn; a turn of the role `tool` gives the result of `call_id`.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    fields: Mapping[str, Json] = field(default_factory=dict)
    function_calls: tuple[FunctionCall, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; names and meanings are llama.cpp's. Temperature 0 is greedy."""

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What a `grammar` admits, as far as an endpoint that takes no grammar can be told.

    `calls` maps each tool that may be called now to the arguments that it may have, () for any. Where no call is
    written it is text or, where there is a `schema` (JSON Schema, an object at its root), JSON of that.
    """

    calls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    schema: Json = None


@dataclass(frozen=True, slots=True)
class FunctionSyntax:
    """How a turn that calls functions is written: `before` NAME `between` ARGUMENTS `after`, the arguments as JSON.

    `joint` stands between the arguments of one call and the name of the next, None where a turn has one call. `answer`
    is what the template writes before an answer where it might have been a call, "" for most.
    """

    before: str
    between: str
    after: str
    joint: str | None = None
    answer: str = ""

    @property
    def is_anywhere(self) -> bool:
        """Where text has the `mark` a call begins; where that looks like any JSON, only at the start of a turn."""
        return not self.mark.startswith(("{", "[{"))

    @property
    def mark(self) -> str:
        """What tells a call from text: the first word of `before`."""
        return self.before.split()[0]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What one sequence of a loaded model is asked to write next.

    `sequence` names a conversation: ids that the worker has read or written for it are kept and reused.
    `grammar` is an llguidance grammar (Lark text) that constrains the content, thinking excluded; `output` says the
    same, less exactly, to endpoints that take none.
    `functions` are the caller's own, shown to the model as its template shows tools.
    `max_tokens` None means: up to the end of the context. `max_thinking_tokens` bounds the thinking, which is closed
    there; None: half of the room. `n_logprobs` asks for the logarithms of probabilities of each token of the content,
    and of so many others at its place; None for none. A grammar then forces no token unseen: each is chosen, of those
    that it admits, and the text may differ from what is written without.
    `calls` says how calls are written that may stand in the content: `stop` strings are not looked for in these.
    `drafts` lets the worker guess ahead where a text repeats what was read: faster, the choices are the same.
    `has_callers_schema`: a caller wrote something of the grammar, which then gets less room than our own.
    `add_generation_prompt` and the rest of the rendering are the chat template's business.
    """

    sequence: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = GREEDY
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    thinking: bool = False
    drafts: bool = False
    output: OutputFormat = field(default_factory=OutputFormat)
    functions: tuple[FunctionSpec, ...] = ()
    max_thinking_tokens: int | None = None
    n_logprobs: int | None = None
    calls: FunctionSyntax | None = None
    has_callers_schema: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What generations took. `cached_tokens` are of the `prompt_tokens`, and were not evaluated again.

    `reasoning_tokens` are of the `completion_tokens`; `cost` is in US dollars, 0 for what runs here.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
            self.cost + other.cost,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the prompt has been read: tokens done of tokens to do."""

    read_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Likely:
    """A token that could stand at a place, as bytes, and the natural logarithm of its probability there.

    The probabilities are the model's own: of its logits, before temperature, grammar and all else that chooses.
    """

    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The token that was written, and the likeliest at its place, the first the likeliest."""

    chosen: Likely
    top: tuple[Likely, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text as it is written; `logprobs` of its tokens where they were asked for."""

    kind: Literal["content", "thinking"]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation: the thinking is never part of the content."""

    content: str
    thinking: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolSyntax:
    """How a model's own template writes a call of each tool: the text before and after the argument.

    `escaped` says that the argument stands inside a JSON string. `answer` is what the template writes before an
    answer where it might have been a call, "" for most.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    escaped: bool
    answer: str = ""


N_CTX_AUTO = 8192
"""The window that a model gets where none is named, or what it was trained with if that is less."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A GGUF file and the settings it is loaded with; spelt as llama.cpp spells them.

    `n_threads` bounds what the scheduler may give; "auto" leaves it to the scheduler. `n_gpu_layers`, `use_mmap` and
    `kv_type` "auto" are chosen before the file is loaded, so that it fits (`scheduler.placing`, `scheduler.fitting`);
    a file that is loaded with them as they are has 0, True and "f16". `device` is the GPU, by ggml's name, that has the
    layers: one for a file; "": none was chosen, and llama.cpp puts layers where it likes. `use_extra_bufts` lets
    llama.cpp keep weights rearranged for the processor (repacked): faster, and a copy where the file is mapped.
    `deterministic`: a request's text is a function of the request and these settings alone, whatever else the worker
    does or did. One sequence at a time, `n_threads` from start to end ("auto": 1), nothing decided by the clock,
    no drafts; to a chat template that writes the date it is 1 January 2025; `n_seq_max` then counts for nothing.
    `embeddings`: it is loaded to make vectors of texts and writes none. A text is then read whole in one batch, so its
    window is the least of `n_ctx`, `n_batch`, `n_ubatch` and what the model was trained with.
    """

    name: str
    path: Path
    n_ctx: int | Literal["auto"] = "auto"
    n_seq_max: int = 1
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int | Literal["auto"] = "auto"
    flash_attn: bool = True
    kv_type: Literal["f16", "q8_0", "auto"] = "f16"
    use_mmap: bool | Literal["auto"] = True
    n_gpu_layers: int | Literal["auto"] = 0
    device: str = ""
    use_extra_bufts: bool = True
    deterministic: bool = False
    embeddings: bool = False

    @property
    def n_parallel(self) -> int:
        """Sequences that may be written side by side."""
        return 1 if self.deterministic else self.n_seq_max

    @property
    def n_kept(self) -> int:
        """Further sequences of a model whose memory cannot be cut: one beginning for each conversation, one for all."""
        return 0 if self.deterministic else self.n_seq_max + 1


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens; `cached` prompt tokens may have a price of their own."""

    prompt: float
    completion: float
    cached: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """An OpenAI-compatible endpoint. Its key is looked up when it is asked, and is no part of any value.

    `key_variable` is the environment variable that holds it, "" where none is wanted. `structured` is how the endpoint
    is held to a format: by JSON Schema (`response_format`), or by the tools that it knows itself. `timeout_s` is of one
    request, `max_retries` how often one that failed before its first word is sent again.
    """

    name: str
    base_url: str
    key_variable: str = ""
    structured: Literal["json_schema", "tools"] = "json_schema"
    timeout_s: float = 300.0
    max_retries: int = 3


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A provider's model, by the provider's own name for it; `prices` None are not known."""

    name: str
    provider: ProviderSpec
    model: str
    n_ctx: int = 32_768
    prices: Prices | None = None


@dataclass(frozen=True, slots=True)
class CloudLeave:
    """Whether a run may send anything to a provider, and what that may cost in all; None is no limit.

    `max_cost` is in US dollars, `max_tokens` counts prompts and completions. `is_named`: whoever asked said so himself,
    else it is what config.yaml said then.
    """

    is_allowed: bool = False
    max_cost: float | None = None
    max_tokens: int | None = None
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a worker found out while it loaded its file.

    `n_ctx` is the window of one sequence. `special_tokens` maps the text of each control token to its
    id, for grammars that must name one. `tool_syntax` is None where the template renders no tool calls,
    `function_syntax` where it renders none whose arguments are JSON.
    """

    description: str
    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_params: int
    size_bytes: int
    special_tokens: Mapping[str, int]
    tool_syntax: ToolSyntax | None
    function_syntax: FunctionSyntax | None = None


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes a loaded model takes of the machine's memory, by what they hold; `vram_bytes` are a device's, and apart.

    `n_gpu_layers` of its layers are on that device, the output counting as one. Where the device has no memory of its
    own (`is_integrated`), its bytes are of the machine's memory too.

    Mapped are pages of files: weights read in place, and libraries, which several workers share. All else is
    anonymous: weights rearranged for the processor (`repacked`) or copied, the context's buffers, what llama.cpp
    needs beside them (`scratch`), and the worker itself with the tables of its vocabulary. `drafts` are taken when
    a text is first drafted ahead, the rest by a load and the text that fills the window.
    """

    weights_mapped_bytes: int = 0
    weights_repacked_bytes: int = 0
    weights_copied_bytes: int = 0
    kv_bytes: int = 0
    recurrent_bytes: int = 0
    compute_bytes: int = 0
    output_bytes: int = 0
    drafts_bytes: int = 0
    scratch_bytes: int = 0
    worker_bytes: int = 0
    libraries_bytes: int = 0
    vram_bytes: int = 0
    n_gpu_layers: int = 0
    is_integrated: bool = False

    @property
    def weights_bytes(self) -> int:
        return self.weights_mapped_bytes + self.weights_repacked_bytes + self.weights_copied_bytes

    @property
    def mapped_bytes(self) -> int:
        return self.weights_mapped_bytes + self.libraries_bytes

    @property
    def anonymous_bytes(self) -> int:
        copies = self.weights_repacked_bytes + self.weights_copied_bytes
        context = self.kv_bytes + self.recurrent_bytes + self.compute_bytes + self.output_bytes + self.drafts_bytes
        return copies + context + self.scratch_bytes + self.worker_bytes

    @property
    def total_bytes(self) -> int:
        return self.mapped_bytes + self.anonymous_bytes + (self.vram_bytes if self.is_integrated else 0)


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU by ggml's name ("CUDA0"), and what of its memory other programs leave; `is_integrated`: the machine's."""

    name: str
    description: str
    total_bytes: int
    free_bytes: int
    is_integrated: bool = False


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """How the engine was built: the processor features that it uses, by llama.cpp's names, and the GPUs it finds."""

    features: frozenset[str]
    devices: tuple[Device, ...] = ()

    @property
    def has_gpu(self) -> bool:
        return bool(self.devices)

    def is_integrated(self, device: str) -> bool:
        """Whether there is a GPU of this name that computes in the machine's memory."""
        return any(one.is_integrated for one in self.devices if one.name == device)


TextKind = Literal["query", "passage"]
"""What a text is embedded as: something asked, or something that may answer. Many models are trained to be told."""


ToolName = Literal["web_search", "web_fetch"]


RESULT_CHARACTERS = 2000
"""How much of a search result is shown where nothing else is said."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """What a panelist's searches may bring back (FUSION.md section 2).

    `max_characters` are of one result. `max_uses` and `max_total_results` are of the whole run, None is without end.
    Domains are written as in `domains`; they are about pages of the web, never about private documents.
    """

    max_results: int = 5
    max_characters: int = RESULT_CHARACTERS
    max_uses: int | None = None
    max_total_results: int | None = 50
    allowed_domains: tuple[str, ...] = ()
    excluded_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a panelist's fetches may bring back; `max_content_tokens` are of its own model."""

    max_uses: int | None = None
    max_content_tokens: int | None = None
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """Which tools a panelist has, and how much they may bring back."""

    enabled: tuple[ToolName, ...] = ("web_search", "web_fetch")
    search: SearchLimits = field(default_factory=SearchLimits)
    fetch: FetchLimits = field(default_factory=FetchLimits)


@dataclass(frozen=True, slots=True)
class SourcesSpec:
    """Where a run searches; what is empty or False is not searched.

    `docs` are files and folders, `zim` archives, `searxng` and `kiwix` addresses of servers, `web` is DuckDuckGo and
    others through `engines` of ddgs. `allowed_domains` and `excluded_domains` hold for all searches of the run,
    `allowed_domains` and `blocked_domains` for all its fetches; see `domains`. `offline`: nothing that needs a network
    is built, whatever else is named. `embedding` is a model for ranking by meaning, None ranks by words alone.
    """

    docs: tuple[Path, ...] = ()
    zim: tuple[Path, ...] = ()
    searxng: str = ""
    kiwix: tuple[str, ...] = ()
    web: bool = False
    engines: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    excluded_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    offline: bool = False
    embedding: ModelSpec | None = None


AnyModel = ModelSpec | RemoteModel
"""A model that can answer: a file here, or a provider's."""

FallbackReason = Literal["not_installed", "does_not_fit", "died", "timed_out"]
"""Why a seat's model cannot answer. `died`: it failed in any other way than these, after what can be tried again."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model that steps in for a seat's own where that fails for one of the reasons `when`."""

    model: AnyModel
    when: tuple[FallbackReason, ...]


@dataclass(frozen=True, slots=True)
class Substitution:
    """A model that stepped in: for which seat (or "judge"), for which model, why, and what was wrong in a sentence."""

    id: str
    model: str
    to: str
    reason: FallbackReason
    error: str


JUDGE, WRITER = "judge", "writer"
"""What the judge, and a writer who is not the judge, are called where panelists have their ids."""


@dataclass(frozen=True, slots=True)
class PanelistSpec:
    """One seat of a panel; two seats may use the same file and differ in everything else.

    `fallback` are tried in order, each once; `timeout_s` bounds each of its models, loading included.
    """

    id: str
    model: AnyModel
    sampling: Sampling = field(default_factory=Sampling)
    persona: str = ""
    thinking: bool = False
    tools: ToolOptions = field(default_factory=ToolOptions)
    max_tool_calls: int = 4
    max_tokens: int = 1024
    fallback: tuple[Fallback, ...] = ()
    timeout_s: float | None = None
    max_thinking_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """The model that compares the answers and then writes the final one; always at temperature 0.

    Before it compares it may look things up itself, `max_tool_calls` times; the final answer is written without tools.
    """

    model: AnyModel
    thinking: bool = False
    max_tokens: int = 4096
    tools: ToolOptions = field(default_factory=ToolOptions)
    max_tool_calls: int = 0
    fallback: tuple[Fallback, ...] = ()
    timeout_s: float | None = None
    max_thinking_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class WriterSpec:
    """Who writes the final answer, from the answers and the analysis, without tools, as `sampling` has it.

    Where its model is the judge's, it goes on from what the judge has read.
    """

    model: AnyModel
    sampling: Sampling = GREEDY
    thinking: bool = False
    max_tokens: int = 4096
    max_thinking_tokens: int | None = None
    fallback: tuple[Fallback, ...] = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class PanelSpec:
    """Everything a preset or the command line decided: who answers, who judges, who writes.

    `substitutions` are those that were made before the run, because files are missing or do not fit. Without a `writer`
    the judge writes the final answer, on what it has read already.
    """

    panelists: tuple[PanelistSpec, ...]
    judge: JudgeSpec
    substitutions: tuple[Substitution, ...] = ()
    writer: WriterSpec | None = None


AnySeat = PanelistSpec | JudgeSpec | WriterSpec
Seat = TypeVar("Seat", PanelistSpec, JudgeSpec, WriterSpec)


def seats_of(panel: PanelSpec, *, done: Container[str] = ()) -> dict[str, AnySeat]:
    """Everyone who works, by id, the judge and the writer last; panelists in `done` have answered and are left out."""
    seats: dict[str, AnySeat] = {seat.id: seat for seat in panel.panelists if seat.id not in done}
    seats[JUDGE] = panel.judge
    if panel.writer is not None:
        seats[WRITER] = panel.writer
    return seats


def with_models(panel: PanelSpec, change: Callable[[ModelSpec], ModelSpec]) -> PanelSpec:
    """The same panel, each of the files that it was given changed; what steps in later stays as it is."""

    def changed(model: AnyModel) -> AnyModel:
        return change(model) if isinstance(model, ModelSpec) else model

    return replace(
        panel,
        panelists=tuple(replace(seat, model=changed(seat.model)) for seat in panel.panelists),
        judge=replace(panel.judge, model=changed(panel.judge.model)),
        writer=None if panel.writer is None else replace(panel.writer, model=changed(panel.writer.model)),
    )


def with_model(
    panel: PanelSpec, id: str, model: AnyModel, *, fallback: tuple[Fallback, ...] | None = None
) -> PanelSpec:
    """The same panel with another model, and other fallbacks where any are given, on a seat, or as judge or writer."""

    def seated(seat: Seat) -> Seat:
        return replace(seat, model=model, fallback=seat.fallback if fallback is None else fallback)

    if id == JUDGE:
        return replace(panel, judge=seated(panel.judge))
    if id == WRITER and panel.writer is not None:
        return replace(panel, writer=seated(panel.writer))
    seats = tuple(seated(seat) if seat.id == id else seat for seat in panel.panelists)
    return replace(panel, panelists=seats)


def provider_of(model: AnyModel) -> str:
    """The name of a model's provider, "" for a file here."""
    return model.provider.name if isinstance(model, RemoteModel) else ""


def local_models(panel: PanelSpec, *, done: Container[str] = ()) -> tuple[ModelSpec, ...]:
    """The files of a panel, the judge's and the writer's last; panelists in `done`, by id, need theirs no more."""
    models = (seat.model for seat in seats_of(panel, done=done).values())
    return tuple(model for model in models if isinstance(model, ModelSpec))
