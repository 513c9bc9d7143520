"""Where and how large a bench is: quick or full, the cores, the models, which are written when first needed."""

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from localfusion.machine import total_bytes
from scripts.engine_bench.random_models import RandomModel, write_random_model

T = TypeVar("T")

PANEL = RandomModel()
"""0.4 billion weights, 32 000 tokens; files that differ from it in their seed are a panel of several files."""
JUDGE = RandomModel(n_vocab=150_000, n_layer=12)
QUICK = RandomModel(n_embd=256, n_layer=2, n_ff=512, n_head=4, n_head_kv=2)
"""In place of every model where the bench is quick; 150 000 tokens stay 150 000."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every row is given; `say` tells of progress."""

    quick: bool
    cores: int
    models_dir: Path
    say: Callable[[str], None]

    def pick(self, quick: T, full: T) -> T:
        """One of two sizes."""
        return quick if self.quick else full

    def model(self, model: RandomModel, *, seed: int = 0) -> Path:
        """The file of a model, or of its small stand-in."""
        shape = replace(QUICK, n_vocab=model.n_vocab, architecture=model.architecture) if self.quick else model
        return self.exactly(replace(shape, seed=seed))

    def exactly(self, model: RandomModel) -> Path:
        """The file of just this model."""
        name = f"{model.architecture}-{model.n_vocab}-{model.n_embd}x{model.n_layer}-{model.n_ff}-{model.seed}.gguf"
        path = self.models_dir / name
        if not path.exists():
            self.say(f"writing {name}")
            write_random_model(path, model)
        return path


def median(values: Sequence[float]) -> float:
    """Of repetitions."""
    return statistics.median(values)


def heading(setting: Setting) -> str:
    """The machine and the engine that all figures are of."""
    size = "quick: small models, times mean nothing" if setting.quick else f"models of {PANEL.n_layer} layers"
    memory = f"{setting.cores} cores, {total_bytes() / 2**30:.0f} GiB"
    return f"{processor_name()}, {memory}; llama-cpp-python {version('llama-cpp-python')}; {size}"


def processor_name() -> str:
    """What the machine's processor calls itself."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
