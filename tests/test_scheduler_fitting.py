"""Which settings a panel is loaded with so that it fits: what is chosen, in which order, and what is never touched."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfusion.messages import Footprint, JudgeSpec, ModelSpec, PanelistSpec, PanelSpec
from localfusion.scheduler.fitting import (
    Fit,
    TooLarge,
    applied,
    default_budget_bytes,
    fit,
    n_ctx_that_fits,
    remarks,
    variants,
)

AUTO = ModelSpec("", Path("/a.gguf"), n_ctx=1024, kv_type="auto", use_mmap="auto")
MAPPED, READ = replace(AUTO, use_mmap=True), replace(AUTO, use_mmap=False)


def sized(total: int) -> Footprint:
    return Footprint(weights_copied_bytes=total)


def test_variants_are_what_was_left_open() -> None:
    assert [(v.kv_type, v.use_mmap) for v in variants(AUTO)] == [
        ("f16", True),
        ("f16", False),
        ("q8_0", True),
        ("q8_0", False),
    ]
    assert variants(replace(AUTO, kv_type="f16", use_mmap=True)) == (replace(AUTO, kv_type="f16", use_mmap=True),)
    without_flash = replace(AUTO, flash_attn=False)
    assert {v.kv_type for v in variants(without_flash)} == {"f16"}
    assert {v.kv_type for v in variants(AUTO, "q8_0")} == {"q8_0"}
    assert variants(replace(AUTO, kv_type="f16"), "q8_0") == ()


@pytest.mark.parametrize(
    ("budget", "kv_type", "use_mmap", "is_side_by_side"),
    [
        (20, "f16", False, True),  # reading takes less than mapping here
        (16, "q8_0", False, True),
        (15, "f16", False, False),
        (9, "q8_0", False, False),
    ],
)
def test_the_order_of_choices(budget: int, kv_type: str, use_mmap: bool, is_side_by_side: bool) -> None:
    other = replace(AUTO, path=Path("/b.gguf"))
    sizes = {("f16", True): 12, ("f16", False): 10, ("q8_0", True): 9, ("q8_0", False): 8}
    footprints = {v: sized(sizes[v.kv_type, bool(v.use_mmap)]) for one in (AUTO, other) for v in variants(one)}
    found = fit([AUTO, other], footprints, budget_bytes=budget)
    assert isinstance(found, Fit)
    assert {(v.kv_type, v.use_mmap) for v in found.chosen.values()} == {(kv_type, use_mmap)}
    assert found.is_side_by_side == is_side_by_side
    assert fit([AUTO, other], footprints, budget_bytes=7) == TooLarge(
        AUTO, replace(AUTO, kv_type="q8_0", use_mmap=False), sized(8)
    )


@st.composite
def panels(draw: st.DrawFn) -> tuple[list[ModelSpec], dict[ModelSpec, Footprint], int]:
    """Specs, the footprints of all their variants, and a budget."""
    kv_types: st.SearchStrategy[Literal["f16", "q8_0", "auto"]] = st.sampled_from(("f16", "q8_0", "auto"))
    maps: st.SearchStrategy[bool | Literal["auto"]] = st.sampled_from((True, False, "auto"))
    specs = [
        replace(AUTO, path=Path(f"/{n}.gguf"), kv_type=draw(kv_types), use_mmap=draw(maps))
        for n in range(draw(st.integers(1, 4)))
    ]
    footprints = {v: sized(draw(st.integers(1, 20))) for one in specs for v in variants(one)}
    return specs, footprints, draw(st.integers(1, 60))


def totals(specs: Sequence[ModelSpec], footprints: Mapping[ModelSpec, Footprint]) -> list[int]:
    """What every combination of variants with one kind of KV cache takes."""
    return [
        sum(footprints[v].total_bytes for v in chosen)
        for kv_type in ("f16", "q8_0")
        for chosen in product(*(variants(one, kv_type) or variants(one) for one in specs))
    ]


@given(panels())
def test_what_was_set_stays_and_nothing_is_refused_that_fits(
    panel: tuple[list[ModelSpec], dict[ModelSpec, Footprint], int],
) -> None:
    specs, footprints, budget = panel
    found = fit(specs, footprints, budget_bytes=budget)
    if isinstance(found, TooLarge):
        assert min(footprints[v].total_bytes for v in variants(found.spec)) > budget
        return
    assert all(v in variants(one) for one, v in found.chosen.items())
    assert all(footprints[v].total_bytes <= budget for v in found.chosen.values())
    assert found.is_side_by_side == (min(totals(specs, footprints)) <= budget)
    assert found.total_bytes == sum(footprints[v].total_bytes for v in found.chosen.values())


def test_a_file_of_which_nothing_is_known_is_left_to_its_load() -> None:
    assert fit([AUTO], {}, budget_bytes=1) == Fit({AUTO: variants(AUTO)[0]}, 0, is_side_by_side=True)


def test_the_window_that_would_fit() -> None:
    footprint = Footprint(weights_mapped_bytes=1000, kv_bytes=1024 * 10, compute_bytes=500)
    assert n_ctx_that_fits(AUTO, footprint, budget_bytes=1500 + 5200) == 512
    assert n_ctx_that_fits(AUTO, footprint, budget_bytes=1500 + 200) is None
    assert n_ctx_that_fits(AUTO, footprint, budget_bytes=1500) is None
    assert n_ctx_that_fits(replace(AUTO, n_ctx="auto"), footprint, budget_bytes=9999) is None
    assert n_ctx_that_fits(AUTO, sized(5), budget_bytes=9999) is None


def test_a_panel_gets_its_settings_under_its_own_names_and_the_user_is_told() -> None:
    panel = PanelSpec((PanelistSpec("a", replace(AUTO, name="x")),), JudgeSpec(replace(AUTO, name="y")))
    chosen = replace(AUTO, kv_type="q8_0", use_mmap=False)
    found = Fit({AUTO: chosen}, 3 * 2**20, is_side_by_side=False)
    made = applied(panel, found)
    assert made.panelists[0].model == replace(chosen, name="x")
    assert made.judge.model == replace(chosen, name="y")
    assert remarks(found, 2 * 2**20) == (
        "the models take 3 MiB together and 2 MiB may be used, so they are loaded one after another",
        "the KV cache of a.gguf is kept in q8_0 so that all fits",
    )
    own = replace(AUTO, kv_type="q8_0")
    assert remarks(Fit({own: own}, 1, is_side_by_side=True), 2) == ()


def on(device: str, vram: int, total: int = 1) -> tuple[ModelSpec, Footprint]:
    one = replace(AUTO, path=Path(f"/{device}{vram}.gguf"), kv_type="f16", use_mmap=True, device=device)
    return one, Footprint(weights_copied_bytes=total, vram_bytes=vram)


def test_models_that_no_gpu_has_room_for_together_take_turns() -> None:
    footprints = dict([on("x", 6), on("x", 5), on("y", 4)])
    found = fit(list(footprints), footprints, budget_bytes=3, vram_bytes={"x": 11, "y": 4})
    assert isinstance(found, Fit)
    assert (found.is_side_by_side, found.total_bytes, found.vram_bytes) == (True, 3, 15)
    found = fit(list(footprints), footprints, budget_bytes=3, vram_bytes={"x": 10, "y": 4})
    assert isinstance(found, Fit)
    assert not found.is_side_by_side
    mib = Fit({}, 2**20, is_side_by_side=False, vram_bytes=3 * 2**20)
    (said,) = remarks(mib, 2**21, {"x": 2**20, "y": 2**20})
    took, may_be_used = "1 MiB and 3 MiB of VRAM", "2 MiB and 2 MiB of VRAM"
    assert (
        said == f"the models take {took} together and {may_be_used} may be used, so they are loaded one after another"
    )


def test_the_user_is_told_what_is_not_on_a_gpu() -> None:
    auto = replace(AUTO, n_gpu_layers="auto", kv_type="f16")
    whole, part = replace(auto, device="x", n_gpu_layers=-1), replace(auto, device="x", n_gpu_layers=7)
    none, numbered = replace(auto, n_gpu_layers=0), replace(auto, n_gpu_layers=7)

    def said(spec: ModelSpec, chosen: ModelSpec, vram: Mapping[str, int]) -> tuple[str, ...]:
        return remarks(Fit({spec: chosen}, 1, is_side_by_side=True), 2, vram)

    assert said(auto, none, {}) == said(auto, none, {"x": 0}) == said(auto, whole, {"x": 9}) == ()
    assert said(numbered, part, {"x": 9}) == said(none, none, {"x": 9}) == ()
    assert said(auto, part, {"x": 9}) == ("the memory of x has room for 7 of the layers of a.gguf",)
    assert said(auto, none, {"x": 9}) == ("the GPU memory has no room for a.gguf, so the processor has it",)
    assert said(numbered, numbered, {}) == ("there is no GPU for the layers of a.gguf",)


def test_a_part_of_the_memory_is_left_to_other_programs() -> None:
    gib = 2**30
    assert default_budget_bytes(7 * gib, total_bytes=8 * gib) == 6 * gib
    assert default_budget_bytes(60 * gib, total_bytes=64 * gib) == 58 * gib
    assert default_budget_bytes(gib // 2, total_bytes=8 * gib) == 0
