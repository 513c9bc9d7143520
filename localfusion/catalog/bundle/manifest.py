"""The manifest of a bundle: what the file holds, in order, and what of models.yaml goes with it. Opens nothing."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from localfusion import __version__
from localfusion.catalog.installed import MODELS_FOLDER
from localfusion.config import Contents, ModelEntry, PresetEntry
from localfusion.config.checked import Entry
from localfusion.errors import ConfigError

FORMAT: Literal[1] = 1
README_NAME = "README.txt"
MANIFEST_NAME = "manifest.json"
DIGEST_NAME = "manifest.json.sha256"
SIGNATURE_NAME = "manifest.json.sig"
INDEX_NAME = "index/documents.jsonl.zst"
MODELS_PREFIX = f"{MODELS_FOLDER}/"
WHEELS_FOLDER = "wheels/"
BUNDLED_FOLDER = "bundled/"
"""Below `models/`: files of no hub."""
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_README_BYTES = 2**16

_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+!-]*(/[A-Za-z0-9_+-][A-Za-z0-9._+!-]*)*", flags=re.ASCII)
_BUNDLED_FOLDER = re.compile(r"models/bundled/[0-9a-f]{16}/[^/]+\.gguf")
_FOLDERS = {"model": MODELS_PREFIX, "wheel": WHEELS_FOLDER, "index": INDEX_NAME, "readme": README_NAME}
_OWN_NAMES = (MANIFEST_NAME, DIGEST_NAME, SIGNATURE_NAME)


def _member_name(value: str) -> str:
    if not _NAME.fullmatch(value) or any(part.endswith(".") for part in value.split("/")):
        raise ValueError("must be a plain relative name")
    return value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=2**50)]
OneLine = Annotated[str, Field(max_length=1000)]


class ModelFacts(Entry):
    """Where a file came from, as the machine that made the bundle knew it; `repo` is "" for a file of no hub."""

    repo: OneLine = ""
    file: OneLine = ""
    revision: OneLine = ""
    licence: OneLine = ""


class Member(Entry):
    """A file of the bundle: `n_bytes` and `sha256` are of what stands in the bundle, packed or not."""

    name: Annotated[str, Field(max_length=500), AfterValidator(_member_name)]
    role: Literal["readme", "model", "index", "wheel"]
    n_bytes: Size
    sha256: Sha256
    packed: Literal["stored", "zstd"] = "stored"
    unpacked_bytes: Size | None = None
    model: ModelFacts | None = None


class CarriedIndex(Entry):
    """The documents that are carried: the name of the folder or file that they were read from, and how many.

    `source` tells folders of one name apart, of one machine or of several.
    """

    name: Annotated[str, Field(min_length=1, max_length=255)]
    source: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    n_documents: Annotated[int, Field(ge=1, le=2**32)]
    is_file: bool = False


class ZimReference(Entry):
    """A ZIM archive that the bundle goes with and does not hold; `uuid` is the archive's own."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    n_bytes: Size
    uuid: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class WheelTarget(Entry):
    """What the wheels of a bundle are for."""

    python: OneLine
    platform: OneLine


class Manifest(Entry):
    """All that a bundle says of itself. `models` is the preset with its models, whose files are members."""

    format: Literal[1]
    localfusion: OneLine
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$")]
    preset: OneLine
    models: Contents
    index: CarriedIndex | None = None
    zim: tuple[ZimReference, ...] = ()
    wheels: WheelTarget | None = None
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=10_000)]

    def of_role(self, role: Literal["model", "index", "wheel"]) -> tuple[Member, ...]:
        """The members that are for this."""
        return tuple(member for member in self.members if member.role == role)

    def named_by(self, member: Member) -> str:
        """What a member is called: by the model whose first file it is, else by its own name."""
        return next(
            (name for name, model in self.models.models.items() if member_of(model) == member.name), member.name
        )


def to_bytes(manifest: Manifest) -> bytes:
    """A manifest as it stands in the file."""
    document = manifest.model_dump(mode="json", exclude_defaults=True)
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def digest_line(raw: bytes) -> bytes:
    """The digest of a manifest as `sha256sum -c` reads it."""
    return f"{sha256(raw).hexdigest()}  {MANIFEST_NAME}\n".encode()


def from_bytes(raw: bytes) -> Manifest:
    """A manifest that was read, checked. Raises ConfigError for any that no localfusion of this format writes."""
    document = _parsed(raw)
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version != FORMAT:
        hint = "load it with the localfusion that made it, or update this one"
        raise ConfigError(f"the bundle has format {version}, and this localfusion reads {FORMAT}", hint=hint)
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise _refused(problem, hint=_update_hint(document)) from error
    for problem in _disagreements(manifest):
        raise _refused(problem)
    return manifest


def _parsed(raw: bytes) -> object:
    """JSON as plain values, lists as tuples; no key may be there twice, and no number may be none."""
    try:
        return _tuples(json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise _refused("it is no JSON of its kind") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _tuples(value: object) -> object:
    """What the strict types of models.yaml take: their lists are tuples."""
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _refused(problem: str, *, hint: str = "") -> ConfigError:
    hint = hint or "make or fetch the bundle again"
    return ConfigError(f"the manifest of the bundle is refused: {problem}", hint=hint)


def _update_hint(document: object) -> str:
    """What to do about a manifest that a newer localfusion wrote; "" where it was none."""
    made_by = document.get("localfusion") if isinstance(document, dict) else None
    if not isinstance(made_by, str) or _version(made_by) <= _version(__version__):
        return ""
    return f"localfusion {made_by[:20]} made it and this is {__version__}: update this one, then load it again"


def _version(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.match(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}", text, flags=re.ASCII)
    return tuple(map(int, found[0].split("."))) if found else ()


def _disagreements(manifest: Manifest) -> Iterator[str]:
    yield from _in_names([*(member.name for member in manifest.members), *_OWN_NAMES])
    if manifest.members[0].name != README_NAME:
        yield f"its first member is not {README_NAME}"
    for member in manifest.members:
        yield from _in_member(member)
    indexes = [member.name for member in manifest.of_role("index")]
    if indexes != ([INDEX_NAME] if manifest.index else []):
        yield "what it says of an index does not fit its members"
    yield from _in_models(manifest)


def _in_names(names: list[str]) -> Iterator[str]:
    """Names that are one name where a file system does not tell upper from lower case, or a file and a folder."""
    seen: set[str] = set()
    folders = {name.casefold().rsplit("/", depth)[0] for name in names for depth in range(1, name.count("/") + 1)}
    for name in names:
        if name.casefold() in seen:
            yield f"{name} is there twice"
        if name.casefold() in folders:
            yield f"{name} is a file and a folder"
        seen.add(name.casefold())


def _in_member(member: Member) -> Iterator[str]:
    folder = _FOLDERS[member.role]
    if not (member.name.startswith(folder) if folder.endswith("/") else member.name == folder):
        yield f"{member.name} is no place for its role, {member.role}"
    if (member.packed == "zstd") != (member.unpacked_bytes is not None) or (member.packed == "zstd") != (
        member.role == "index"
    ):
        yield f"{member.name} is packed in a way that is not for its role"
    if (member.model is not None) != (member.role == "model"):
        yield f"what is said of {member.name} does not fit its role"
    if member.model is not None and not is_named_for(member.name, member.model):
        yield f"{member.name} is not where the file {member.model.file or 'of no hub'} belongs"


def is_named_for(name: str, facts: ModelFacts) -> bool:
    if facts.repo:
        owner, _, rest = facts.repo.partition("/")
        is_repo = bool(owner and rest) and "/" not in rest and f"{owner.lower()}/" != BUNDLED_FOLDER
        return is_repo and name.endswith(".gguf") and name == f"{MODELS_PREFIX}{facts.repo}/{facts.file}"
    return not facts.file and _BUNDLED_FOLDER.fullmatch(name) is not None


def _in_models(manifest: Manifest) -> Iterator[str]:
    """The preset, its models and their other names, and nothing else: a bundle changes no more than it is for."""
    own = manifest.models
    if list(own.presets) != [manifest.preset] or own.providers:
        yield "it holds other presets than the one that it is named for, or providers"
        return
    preset = own.presets[manifest.preset]
    named = set(models_of(preset))
    if named != {*own.aliases, *(name for name in own.models if name in named)}:
        yield "its preset names models that are not in it"
    if not set(own.models) <= {own.aliases.get(name, name) for name in named}:
        yield "it holds models that its preset does not name"
    files = {member.name for member in manifest.of_role("model")}
    for name, model in own.models.items():
        if not model.shipped and member_of(model) not in files:
            yield f"the file of the model {name} is not in it"


def models_of(preset: PresetEntry) -> Iterator[str]:
    """The names of a preset's models and of those that step in for them."""
    for seat in preset.panel:
        yield from (seat.model, *(fallback.model for fallback in seat.fallback))
    yield from (preset.judge.model, *(fallback.model for fallback in preset.judge.fallback))


def member_of(model: ModelEntry) -> str:
    """The name of the member that is a model's (first) file; of one that is shipped there is none."""
    if model.hub is not None:
        return f"{MODELS_PREFIX}{model.hub.repo}/{model.hub.file}"
    return f"{MODELS_PREFIX}{model.path}"
