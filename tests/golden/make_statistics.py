"""All that is said of recorded calls of plugged models: python tests/golden/make_statistics.py [--calls]

Run it when a statistic is added; ``git diff`` then shows that nothing else changed. --calls: record the calls anew,
too, when they hold something new.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]

from psa_paddle.stats import AuditedRows, CallStats, PSALogger, format_stats, format_step, totals  # noqa: E402

CALLS, SAID = (Path(__file__).with_name(f"statistics_{name}.json") for name in ("calls", "said"))
CALL = ("backend", "mode", "reason", "lengths", "pairs")


class Config:
    """What a log wants of a configuration."""

    def __init__(self, settings: dict):
        self.settings = settings

    def as_dict(self) -> dict:
        return self.settings


def plain(layer: int, call: CallStats) -> dict:
    work = [np.asarray(x, np.float64).tolist() for x in call.work]
    audits = [{"sums": np.asarray(x.sums).tolist(), "lengths": x.lengths} for x in call.audits]
    return {"layer": layer, **{name: getattr(call, name) for name in CALL}, "work": work, "audits": audits}


def rebuilt(row: dict) -> tuple[int, CallStats]:
    lengths = tuple(map(tuple, row["lengths"]))
    audits = [AuditedRows(np.float32(x["sums"]), tuple(x["lengths"])) for x in row["audits"]]
    work = [np.array(x) for x in row["work"]]
    return row["layer"], CallStats(row["backend"], row["mode"], row["reason"], lengths, work, row["pairs"], audits)


def said(calls: list, request: dict, settings: dict) -> dict:
    """Every form in which a user meets the statistics of these calls, in lines."""
    stats = {**request, **totals(calls), "config": settings}
    with tempfile.TemporaryDirectory() as folder:
        with PSALogger(folder, Config(settings), "run") as logger:
            for layer, call in calls:
                logger.log(layer, call)
        log, summary = (Path(folder, f"run{end}").read_text(encoding="utf-8") for end in (".jsonl", "_summary.json"))
    step = {"run": 1, "step": 2, "timestep": 750.0, **totals(calls)}
    forms = {
        "json": json.dumps(stats, indent=1, ensure_ascii=False),
        "text": format_stats(stats),
        "log": log,
        "summary": summary,
        "step": format_step(step),
    }
    return {name: text.splitlines() for name, text in forms.items()}


def record() -> dict:
    """Calls of a request, of prefills with two configurations behind one another, and of a step of a video model."""
    import paddle
    from shared_demo import SPARSE
    from shared_video import ONLY_FORCED, video
    from stub_video import StubVideoPipeline

    from psa_paddle.integrations.language.attention import plug_of, psa_attention_in
    from psa_paddle.integrations.language.inference import QwenVLInference
    from psa_paddle.integrations.video import plug as video_plug
    from psa_paddle.integrations.video.attention import psa_attention_in as in_video

    model = QwenVLInference("demo", "float32", use_psa=True, psa_config=SPARSE.replace(audit_rows=16))
    model.inference_video(ROOT / "demo" / "sample.mp4", "请描述这个视频", 4, 0.25)
    stats, asked = model.stats(), list(plug_of(model.model).calls)
    request = {k: v for k, v in stats.items() if k not in totals(asked) and k != "config"}
    request.update(ttft_s=1.25, decode_tokens_per_s=41.26, peak_memory_bytes=3 << 20)  # another value each time
    others = []
    few = SPARSE.replace(mask_ratios={1: (0.0, 0.1), 0: (0.1, 1.0)}, text_length=16, block_means=True, audit_rows=32)
    for config in (few, SPARSE.replace(dense_below=1 << 20)):
        with psa_attention_in(model, config), paddle.no_grad():
            model.model(input_ids=paddle.to_tensor(np.random.default_rng(0).integers(500, 700, (2, 300))))
            others += plug_of(model.model).calls
    steps = []
    video_plug.totals = lambda calls: steps.append(list(calls)) or totals(calls)
    pipe = StubVideoPipeline("stub-cogvideox")
    with in_video(pipe, ONLY_FORCED.replace(warmup_steps=0, audit_rows=16)) as plug:
        video(pipe)
        plug.steps()
    found = {}
    for name, calls in {"request": asked, "prefills": [*asked[:1], *others], "video step": steps[0]}.items():
        rows = [plain(*call) for call in calls]
        found[name] = {"request": request, "config": SPARSE.as_dict(), "calls": rows}
    return found


def said_of(found: dict) -> dict:
    """What is said of each recorded run."""
    return {name: said(list(map(rebuilt, run["calls"])), run["request"], run["config"]) for name, run in found.items()}


if __name__ == "__main__":
    if "--calls" in sys.argv:
        CALLS.write_text(json.dumps(record(), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    words = said_of(json.loads(CALLS.read_text(encoding="utf-8")))
    SAID.write_text(json.dumps(words, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
