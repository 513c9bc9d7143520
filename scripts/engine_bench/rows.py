"""The rows of `scripts/bench-engine`, in the order of its table."""

from collections.abc import Mapping

from scripts.engine_bench import budget, busy, counting, decoding, deliberations, footprint, orchestration, panels
from scripts.engine_bench.figures import Row
from scripts.engine_bench.setting import Setting

ROWS: Mapping[str, Row[Setting]] = {
    "panel": panels.panel,
    "files": panels.files,
    "deliberation": deliberations.deliberation,
    "evaluated": counting.evaluated,
    "judge": decoding.judging,
    "decode": decoding.decode,
    "busy": busy.busy,
    "footprint": footprint.footprint,
    "budget": budget.budget,
    "orchestration": orchestration.orchestration,
}
