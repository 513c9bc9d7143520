"""Which layers of which model go to which GPU: chosen before anything is loaded, and before memory is fitted. Pure.

A model is on one GPU and never split over several; the models of a panel may be on different ones. In this order:

1. A number that the user set, in the order of the panel, goes to the GPU with most room left if it fits there, else to
   the largest GPU, where the models then take turns. One that does not fit even alone is refused.
2. "auto", in the order of the panel: the whole model on the GPU with most room left.
3. Else as many of its last layers as fit there. They are counted by interpolation, then looked at, for as long as it
   takes: a footprint takes a process, so few are asked for.
4. Else the processor has all of it.

Where there is no GPU nothing changes but that "auto" is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from localfusion.messages import Device, Footprint, ModelSpec

RESERVE_SHARE, MOST_RESERVE_BYTES = 16, 2**30
"""Of a GPU's memory a sixteenth, at most 1 GiB, is left to the screen and to other programs."""

ALL = -1
Footprints = Mapping[ModelSpec, Footprint | None]
"""What is known by now; None: nothing can be said of it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A footprint that has to be known first."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A number of layers that fits no GPU even alone; `n_gpu_layers` would fit the largest."""

    spec: ModelSpec
    need_bytes: int
    have_bytes: int
    n_gpu_layers: int


@dataclass(frozen=True, slots=True)
class Placed:
    """What each spec that was asked about becomes."""

    chosen: Mapping[ModelSpec, ModelSpec]


def budgets(devices: Sequence[Device], *, vram_bytes: int | None) -> Mapping[str, int]:
    """What models may take of each GPU: what is free less a reserve, or `vram_bytes` where the user named a number."""
    return {
        device.name: max(0, device.free_bytes - min(device.total_bytes // RESERVE_SHARE, MOST_RESERVE_BYTES))
        if vram_bytes is None
        else min(vram_bytes, device.total_bytes)
        for device in devices
    }


def place(
    specs: Sequence[ModelSpec], footprints: Footprints, vram_bytes: Mapping[str, int]
) -> Placed | Unknown | NoRoom:
    """Where the layers of each of `specs` go within these budgets, or what has to be known before that can be said."""
    left = dict(vram_bytes)
    chosen: dict[ModelSpec, ModelSpec] = {}
    for spec in sorted(specs, key=lambda spec: spec.n_gpu_layers == "auto"):  # stable: else in their order
        found = _place_one(spec, footprints, left, vram_bytes)
        if isinstance(found, Unknown | NoRoom):
            return found
        chosen[spec] = found
        if found.device:
            left[found.device] -= _vram(footprints, found) or 0
    return Placed({spec: chosen[spec] for spec in specs})


def _place_one(
    spec: ModelSpec, footprints: Footprints, left: Mapping[str, int], whole: Mapping[str, int]
) -> ModelSpec | Unknown | NoRoom:
    if spec.n_gpu_layers == 0 or not whole:
        return replace(spec, n_gpu_layers=0) if spec.n_gpu_layers == "auto" else spec
    device = max(left, key=lambda name: left[name])
    if spec.n_gpu_layers == "auto":
        return _most_layers(replace(spec, device=device, n_gpu_layers=ALL), footprints, left[device])
    there = replace(spec, device=device)
    if there not in footprints:
        return Unknown(there)
    if (_vram(footprints, there) or 0) <= left[device]:
        return there
    largest = replace(spec, device=max(whole, key=lambda name: whole[name]))
    if largest not in footprints:
        return Unknown(largest)
    need_bytes, have_bytes = _vram(footprints, largest) or 0, whole[largest.device]
    if need_bytes <= have_bytes:
        return largest
    fits = _most_layers(largest, footprints, have_bytes)
    if isinstance(fits, Unknown):
        return fits
    assert fits.n_gpu_layers != "auto"
    return NoRoom(spec, need_bytes, have_bytes, fits.n_gpu_layers)


def _most_layers(spec: ModelSpec, footprints: Footprints, room_bytes: int) -> ModelSpec | Unknown:
    """The spec with as many of its layers on its device as fit there, at most as many as it has.

    The number comes from the line through what 1 layer takes and what too many take, until one fits.
    """
    nowhere = replace(spec, device="", n_gpu_layers=0)
    if room_bytes <= 0:
        return nowhere
    one = replace(spec, n_gpu_layers=1)
    tried = spec
    while True:
        if tried not in footprints:
            return Unknown(tried)
        footprint = footprints[tried]
        if footprint is None or not footprint.n_gpu_layers:  # its load will say why
            return nowhere
        if footprint.vram_bytes <= room_bytes:
            return tried
        if one not in footprints:
            return Unknown(one)
        n_bytes = _vram(footprints, one)
        if n_bytes is None or n_bytes > room_bytes or footprint.n_gpu_layers == 1:
            return nowhere
        steps, slope = footprint.n_gpu_layers - 1, max(1, footprint.vram_bytes - n_bytes)
        tried = replace(spec, n_gpu_layers=1 + min(steps - 1, steps * (room_bytes - n_bytes) // slope))


def _vram(footprints: Footprints, spec: ModelSpec) -> int | None:
    footprint = footprints[spec]
    return None if footprint is None else footprint.vram_bytes
