"""With which settings the models of a panel fit the memory: chosen before anything is loaded. Pure.

What the user set stays as it is; only what is "auto" is chosen, in this order, once `placing` has put layers on GPUs:

1. The weights are mapped or read, whichever takes less (a mapped file that llama.cpp repacks stands in memory twice).
2. All models side by side with an f16 KV cache.
3. All models side by side with a q8_0 KV cache where that is left to us.
4. One wave after another: each model alone, with an f16 KV cache if it fits so, else with q8_0.
5. What does not fit even alone is refused.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from localfusion.messages import Footprint, ModelSpec, PanelSpec, with_models

KvType = Literal["f16", "q8_0"]
NO_GPUS: Mapping[str, int] = {}

KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")

RESERVE_SHARE, MOST_RESERVE_BYTES = 8, 2 * 2**30
"""Of the machine's memory an eighth, at most 2 GiB, is left to the user's other programs."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The settings chosen for each model that was asked about, and whether all of them fit side by side.

    `vram_bytes` are of all GPUs together.
    """

    chosen: Mapping[ModelSpec, ModelSpec]
    total_bytes: int
    is_side_by_side: bool
    vram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A model that does not fit even alone, at its smallest."""

    spec: ModelSpec
    smallest: ModelSpec
    footprint: Footprint


def default_budget_bytes(available_bytes: int, *, total_bytes: int) -> int:
    """What all workers together may take where the user names no number."""
    return max(0, available_bytes - min(total_bytes // RESERVE_SHARE, MOST_RESERVE_BYTES))


def variants(spec: ModelSpec, *kv_types: KvType) -> tuple[ModelSpec, ...]:
    """What a spec may be loaded as: each setting that is "auto" with each of its values, or only these KV types."""
    maps = (True, False) if spec.use_mmap == "auto" else (spec.use_mmap,)
    types: tuple[KvType, ...] = KV_TYPES if spec.flash_attn else KV_TYPES[:1]
    if spec.kv_type != "auto":
        types = (spec.kv_type,)
    kept = [kv_type for kv_type in types if not kv_types or kv_type in kv_types]
    return tuple(replace(spec, use_mmap=use_mmap, kv_type=kv_type) for kv_type in kept for use_mmap in maps)


def fit(
    specs: Sequence[ModelSpec],
    footprints: Mapping[ModelSpec, Footprint],
    *,
    budget_bytes: int,
    vram_bytes: Mapping[str, int] = NO_GPUS,
) -> Fit | TooLarge:
    """The settings for each of `specs`, of the variants whose footprints are known; one without any takes nothing.

    `vram_bytes` bound those of one GPU together. That each fits there alone, as f16 or else as q8_0, was seen to by
    `placing`.
    """
    sizes = {variant: footprint.total_bytes for variant, footprint in footprints.items()}
    roomy = {spec: _smallest(spec, sizes, "f16") for spec in specs}
    tight = {spec: _smallest(spec, sizes, "q8_0") for spec in specs}
    for chosen in (roomy, tight):
        total, vram = sum(sizes.get(variant, 0) for variant in chosen.values()), _vram(chosen.values(), footprints)
        if total <= budget_bytes and all(n_bytes <= vram_bytes.get(name, 0) for name, n_bytes in vram.items()):
            return Fit(chosen, total, is_side_by_side=True, vram_bytes=vram.total())
    waves: dict[ModelSpec, ModelSpec] = {}
    for spec in specs:
        alone = (v for v in (roomy[spec], tight[spec]) if sizes.get(v, 0) <= budget_bytes)
        found = next((v for v in alone if _has_room(v, footprints, vram_bytes)), None)
        if found is None:
            return TooLarge(spec, tight[spec], footprints[tight[spec]])
        waves[spec] = found
    total, vram = sum(sizes.get(variant, 0) for variant in waves.values()), _vram(waves.values(), footprints)
    return Fit(waves, total, is_side_by_side=False, vram_bytes=vram.total())


def _has_room(spec: ModelSpec, footprints: Mapping[ModelSpec, Footprint], vram_bytes: Mapping[str, int]) -> bool:
    """Whether its GPU, if it has one, has room for it alone."""
    return all(n_bytes <= vram_bytes.get(name, 0) for name, n_bytes in _vram([spec], footprints).items())


def _vram(chosen: Iterable[ModelSpec], footprints: Mapping[ModelSpec, Footprint]) -> Counter[str]:
    """What is taken of each GPU."""
    vram: Counter[str] = Counter()
    for spec in chosen:
        if spec.device and spec in footprints:
            vram[spec.device] += footprints[spec].vram_bytes
    return vram


def _smallest(spec: ModelSpec, sizes: Mapping[ModelSpec, int], kv_type: KvType) -> ModelSpec:
    """The known variant that takes least with this KV cache, if it can have it; mapped where both take the same."""
    own = variants(spec, kv_type) or variants(spec)
    known = [variant for variant in own if variant in sizes] or [v for v in variants(spec) if v in sizes]
    return min(known, key=lambda variant: (sizes[variant], not variant.use_mmap), default=own[0])


def n_ctx_that_fits(spec: ModelSpec, footprint: Footprint, *, budget_bytes: int) -> int | None:
    """About the widest window with which the model would fit, in steps of 256; None where even 256 is too wide."""
    if spec.n_ctx == "auto":
        return None
    per_token = footprint.kv_bytes / spec.n_ctx
    fixed = footprint.total_bytes - footprint.kv_bytes
    if not per_token or fixed >= budget_bytes:
        return None
    return int((budget_bytes - fixed) / per_token) // 256 * 256 or None


def applied(panel: PanelSpec, found: Fit) -> PanelSpec:
    """The panel with the settings that were chosen, where any were; every model keeps its name."""
    return with_models(panel, lambda spec: replace(found.chosen.get(replace(spec, name=""), spec), name=spec.name))


def remarks(found: Fit, budget_bytes: int, vram_bytes: Mapping[str, int] = NO_GPUS) -> tuple[str, ...]:
    """What a user should know of how the models were made to fit."""
    said = []
    if not found.is_side_by_side:
        took, may_be_used = f"{found.total_bytes / 2**20:.0f} MiB", f"{budget_bytes / 2**20:.0f} MiB"
        if found.vram_bytes:
            took += f" and {found.vram_bytes / 2**20:.0f} MiB of VRAM"
            may_be_used += f" and {sum(vram_bytes.values()) / 2**20:.0f} MiB of VRAM"
        said.append(
            f"the models take {took} together and {may_be_used} may be used, so they are loaded one after another"
        )
    narrow = sorted({spec.path.name for spec, kv_type in _chosen_types(found) if kv_type == "q8_0"})
    if narrow:
        said.append(f"the KV cache of {', '.join(narrow)} is kept in q8_0 so that all fits")
    return (*said, *_remarks_on_gpus(found, vram_bytes))


def _remarks_on_gpus(found: Fit, vram_bytes: Mapping[str, int]) -> list[str]:
    """What is not on a GPU and could have been, or was to be."""
    chosen = {spec: chosen for spec, chosen in found.chosen.items() if spec.n_gpu_layers != 0}
    if not vram_bytes:
        asked = sorted({spec.path.name for spec in chosen if spec.n_gpu_layers != "auto"})
        return [f"there is no GPU for the layers of {', '.join(asked)}"] if asked else []
    auto = {spec: one for spec, one in chosen.items() if spec.n_gpu_layers == "auto" and any(vram_bytes.values())}
    partly = [
        f"the memory of {one.device} has room for {one.n_gpu_layers} of the layers of {spec.path.name}"
        for spec, one in auto.items()
        if one.device and one.n_gpu_layers != -1
    ]
    nowhere = sorted({spec.path.name for spec, one in auto.items() if not one.device})
    if nowhere:
        partly.append(f"the GPU memory has no room for {', '.join(nowhere)}, so the processor has it")
    return partly


def _chosen_types(found: Fit) -> list[tuple[ModelSpec, str]]:
    """The models whose KV cache was left to us, with what was chosen."""
    return [(spec, chosen.kv_type) for spec, chosen in found.chosen.items() if spec.kv_type == "auto"]
