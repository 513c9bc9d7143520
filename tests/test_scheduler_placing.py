"""Which layers go to which GPU: what the user set stays, no GPU is given more than its budget, and few are measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.messages import Device, Footprint, ModelSpec
from localfusion.scheduler.placing import NoRoom, Placed, Unknown, budgets, place


@dataclass(frozen=True)
class Model:
    """What a file takes of a GPU: something as soon as it is there, and each layer, the last first."""

    fixed: int
    layers: tuple[int, ...]

    def footprint(self, n_gpu_layers: int) -> Footprint:
        n = len(self.layers) if n_gpu_layers < 0 else min(n_gpu_layers, len(self.layers))
        vram = self.fixed + sum(self.layers[:n]) if n else 0
        return Footprint(weights_copied_bytes=sum(self.layers) - sum(self.layers[:n]), vram_bytes=vram, n_gpu_layers=n)


EVEN = Model(fixed=5, layers=(10,) * 10)


def spec(name: str, n_gpu_layers: int | Literal["auto"] = "auto") -> ModelSpec:
    return ModelSpec("", Path(f"/{name}.gguf"), n_gpu_layers=n_gpu_layers)


def placed(
    specs: Sequence[ModelSpec], models: Mapping[str, Model], vram: Mapping[str, int]
) -> tuple[Placed | NoRoom, dict[ModelSpec, Footprint | None]]:
    """What comes of it once everything that was asked about is known, and what was asked about."""
    known: dict[ModelSpec, Footprint | None] = {}
    while isinstance(found := place(specs, known, vram), Unknown):
        assert found.spec not in known
        assert found.spec.n_gpu_layers not in (0, "auto")
        assert found.spec.device in vram
        model = models.get(found.spec.path.stem)
        known[found.spec] = None if model is None else model.footprint(int(found.spec.n_gpu_layers))
    return found, known


def where(found: Placed | NoRoom) -> list[tuple[str, int | str]]:
    assert isinstance(found, Placed)
    return [(one.device, one.n_gpu_layers) for one in found.chosen.values()]


@pytest.mark.parametrize(
    ("vram", "device", "n_gpu_layers", "n_asked"),
    [
        ({}, "", 0, 0),
        ({"x": 0}, "", 0, 0),
        ({"x": 105}, "x", -1, 1),
        ({"x": 104}, "x", 9, 3),
        ({"x": 55, "y": 54}, "x", 5, 3),
        ({"x": 15}, "x", 1, 2),
        ({"x": 14}, "", 0, 2),
        ({"x": 60, "y": 105}, "y", -1, 1),
    ],
)
def test_as_much_as_fits_goes_to_the_roomiest(
    vram: dict[str, int], device: str, n_gpu_layers: int, n_asked: int
) -> None:
    found, known = placed([spec("a")], {"a": EVEN}, vram)
    assert where(found) == [(device, n_gpu_layers)]
    assert len(known) <= n_asked


def test_models_share_a_gpu_spread_over_several_and_run_over_to_the_processor() -> None:
    specs = [spec("a"), spec("b"), spec("c"), spec("d"), spec("e")]
    models = dict.fromkeys("abcde", EVEN)
    found, _ = placed(specs, models, {"x": 220, "y": 160})
    assert where(found) == [("x", -1), ("y", -1), ("x", -1), ("y", 5), ("", 0)]


def test_a_number_of_the_user_comes_first_and_stays() -> None:
    found, known = placed([spec("a"), spec("b", 5)], {"a": EVEN, "b": EVEN}, {"x": 105})
    assert where(found) == [("x", 4), ("x", 5)]
    assert len(known) <= 4
    found, _ = placed([spec("a", 0)], {"a": EVEN}, {"x": 105})
    assert where(found) == [("", 0)]
    found, _ = placed([spec("a", 7)], {"a": EVEN}, {})
    assert where(found) == [("", 7)]


def test_numbers_that_fit_only_alone_take_turns_on_the_largest() -> None:
    found, _ = placed([spec("a", -1), spec("b", -1), spec("c")], dict.fromkeys("abc", EVEN), {"x": 110, "y": 60})
    assert where(found) == [("x", -1), ("x", -1), ("y", 5)]


@pytest.mark.parametrize(("have", "fits"), [(104, 9), (15, 1), (14, 0), (0, 0)])
def test_a_number_that_fits_nowhere_is_refused_with_one_that_does(have: int, fits: int) -> None:
    found, _ = placed([spec("a", -1)], {"a": EVEN}, {"x": have})
    assert found == NoRoom(spec("a", -1), 105, have, fits)


def test_a_file_of_which_nothing_is_known_is_left_to_its_load() -> None:
    found, _ = placed([spec("gone"), spec("gone", 3), spec("a")], {"a": EVEN}, {"x": 200})
    assert where(found) == [("", 0), ("x", 3), ("x", -1)]


models = st.builds(Model, st.integers(0, 30), st.lists(st.integers(0, 20), min_size=1, max_size=40).map(tuple))
numbers: st.SearchStrategy[int | Literal["auto"]] = st.one_of(st.just("auto"), st.integers(-1, 45))


@given(
    st.lists(st.tuples(models, numbers), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 600), max_size=3),
)
def test_no_gpu_gets_more_than_its_budget_and_nothing_that_was_set_is_changed(
    panel: list[tuple[Model, int | Literal["auto"]]], vram: dict[str, int]
) -> None:
    specs = [spec(f"{i}", number) for i, (_, number) in enumerate(panel)]
    files = {f"{i}": model for i, (model, _) in enumerate(panel)}

    def taken(one: ModelSpec) -> int:
        return files[one.path.stem].footprint(int(one.n_gpu_layers)).vram_bytes if one.device else 0

    found, known = placed(specs, files, vram)
    assert len(known) <= sum(3 + len(model.layers) for model, _ in panel)
    if isinstance(found, NoRoom):
        assert found.need_bytes > found.have_bytes == max(vram.values())
        assert files[found.spec.path.stem].footprint(found.n_gpu_layers).vram_bytes <= found.have_bytes
        return
    assert list(found.chosen) == specs
    for asked, one in found.chosen.items():
        assert replace(one, n_gpu_layers=asked.n_gpu_layers, device="") == asked
        assert asked.n_gpu_layers in (one.n_gpu_layers, "auto")
        assert taken(one) <= vram.get(one.device, 0)
    for device, budget in vram.items():
        there = [one for one in found.chosen.values() if one.device == device]
        were_set = sum(
            taken(one) for asked, one in found.chosen.items() if one in there and asked.n_gpu_layers != "auto"
        )
        assert sum(map(taken, there)) <= max(budget, were_set)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 100), st.integers(0, 4000))
def test_of_even_layers_none_is_left_out_that_fits_and_few_are_measured(
    fixed: int, layer: int, n_layers: int, room: int
) -> None:
    model = Model(fixed, (layer,) * n_layers)
    found, known = placed([spec("a")], {"a": model}, {"x": room})
    ((device, chosen),) = where(found)
    n = n_layers if chosen == -1 else int(chosen)
    assert n == max(k for k in range(n_layers + 1) if model.footprint(k).vram_bytes <= room)
    assert (device == "") == (n == 0)
    assert len(known) <= 3


def test_a_part_of_a_gpu_is_left_to_the_screen() -> None:
    gib = 2**30
    devices = [Device("x", "a card", 8 * gib, 7 * gib), Device("y", "another", 64 * gib, 60 * gib)]
    assert budgets(devices, vram_bytes=None) == {"x": 7 * gib - gib // 2, "y": 59 * gib}
    assert budgets(devices, vram_bytes=10 * gib) == {"x": 8 * gib, "y": 10 * gib}
    assert budgets(devices, vram_bytes=0) == {"x": 0, "y": 0}
    assert budgets([Device("x", "full", gib, 0)], vram_bytes=None) == {"x": 0}
