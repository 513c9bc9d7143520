"""Row "predicting": what `models fit` says from headers read by range, against what it says of the whole files.

The real command line against a hub on loopback, a model of each kind of memory; nothing of the network is measured.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from scripts.engine_bench.figures import Figure
from scripts.engine_bench.random_models import RandomModel, write_random_model
from scripts.models_bench.setting import Setting
from tests.hub_home import HubHome
from tests.hub_server import HubServer, Repo, serve_hub

REPO = "bench/random-GGUF"
KINDS: Mapping[str, RandomModel] = {
    "llama": RandomModel(n_vocab=151_936, n_layer=8),
    "gemma3": RandomModel("gemma3", n_layer=8),
    "qwen3moe": RandomModel("qwen3moe", n_layer=8),
    "deepseek2": RandomModel("deepseek2", n_layer=8),
    "mamba2": RandomModel("mamba2", n_layer=8),
    "lfm2": RandomModel("lfm2", n_layer=9, quantization="q4_k"),
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a command line said of each preset in bytes, how long it took, and what the hub sent for it."""

    bytes_by_preset: Mapping[str, int]
    seconds: float
    sent_bytes: int


def predicting(setting: Setting) -> Iterator[Figure]:
    """A preset for each kind, looked at before and after it is pulled."""
    kinds = {name: KINDS[name] for name in (["llama"] if setting.quick else KINDS)}
    with tempfile.TemporaryDirectory(dir=setting.folder) as name:
        folder = Path(name)
        files = {}
        for kind, model in kinds.items():
            setting.say(f"writing a {kind} model")
            files[f"{kind}.gguf"] = write_random_model(folder / f"{kind}.gguf", model).read_bytes()
        with serve_hub({REPO: Repo(files)}) as hub:
            home = HubHome(folder, hub, _catalogue(kinds))
            setting.say("predicting from headers")
            from_headers = _fit(home, hub, kinds)
            setting.say("pulling")
            _checked(home.run("pull", *kinds))
            setting.say("predicting from files")
            from_files = _fit(home, hub, kinds)
    for kind in kinds:
        ratio = from_headers.bytes_by_preset[kind] / from_files.bytes_by_preset[kind]
        yield Figure(f"predicted from the header: {kind}", ratio, "times", "from the whole file", 1.0, is_limit=True)
    whole = sum(len(content) for content in files.values())
    yield Figure("of the files read for that", 100 * from_headers.sent_bytes / whole, "%")
    yield Figure("time, headers read and models predicted", from_headers.seconds, "s")
    yield Figure("time, models predicted from files", from_files.seconds, "s")


def _catalogue(kinds: Mapping[str, RandomModel]) -> str:
    models = "".join(f"  m-{kind}: {{hub: {{repo: {REPO}, file: {kind}.gguf}}}}\n" for kind in kinds)
    presets = "".join(f"  {kind}: {{panel: [m-{kind}], judge: m-{kind}}}\n" for kind in kinds)
    return f"models:\n{models}presets:\n{presets}"


def _fit(home: HubHome, hub: HubServer, kinds: Mapping[str, RandomModel]) -> Told:
    started, sent = time.perf_counter(), hub.sent_bytes()
    document = json.loads(_checked(home.run("fit", "--json", *kinds)))
    found = {preset["name"]: int(preset["bytes"]) for preset in document["presets"]}
    return Told(found, time.perf_counter() - started, hub.sent_bytes() - sent)


def _checked(done: CompletedProcess[str]) -> str:
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout
