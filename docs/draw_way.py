"""Draws docs/way.svg: the way of one video through the bundled model, from a run. python docs/draw_way.py"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock
from xml.sax.saxutils import escape

import paddle

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from psa_paddle import AttentionConfig, eager  # noqa: E402
from psa_paddle.eager.operator import select  # noqa: E402
from psa_paddle.integrations.language.answering import parts  # noqa: E402
from psa_paddle.integrations.language.attention import plug_of  # noqa: E402
from psa_paddle.integrations.language.inference import QwenVLInference  # noqa: E402
from psa_paddle.utils.media import load_video  # noqa: E402

OUT = Path(__file__).with_name("way.svg")
# Small blocks and every level, so that a short video shows them all.
CONFIG = AttentionConfig.preset(
    "seed",
    query_block=64,
    key_block=32,
    use_sim_mask=False,
    dense_below=0,
    mask_ratios={1: (0.0, 0.3), 2: (0.3, 0.5), 4: (0.5, 0.7), 8: (0.7, 0.85), 0: (0.85, 1.0)},
)
COLOURS = {1: "#1f4e79", 2: "#2e86c1", 4: "#85c1e9", 8: "#d6eaf8", 0: "#f4f4f4", None: "#ffffff"}
ANSWERING = "integrations/language/answering"
CELL, LEFT, TOP, STEP = 9, 20, 56, 46


def shape(x) -> str:
    return f"{str(list(x.shape)).replace(' ', '')} {str(x.dtype).split('.')[-1]}"


def record() -> tuple[list[tuple[str, str, str]], list[list[int | None]], str]:
    """(stage, file, what is handed on) in order; the level map of one head, None where no key may be seen; a title."""
    stages, maps = [], []
    model = QwenVLInference("demo", "float32", use_psa=True, psa_config=CONFIG)
    clip = load_video(str(ROOT / "demo" / "sample.mp4"), fps=0.5)
    sparse, portions, embed = eager.psa_attention, parts.portions, parts.Parts.embed

    def attend(q, k, v, plan):
        out, work = sparse(q, k, v, plan)
        if not maps:
            scores = eager.importance(q, k, plan)
            levels = select(scores, k, q.shape[2], plan)
            own = levels[0, 0].numpy().tolist()
            seen = scores[0, 0].numpy() > 0
            maps.append([[x if seen[i][j] else None for j, x in enumerate(row)] for i, row in enumerate(own)])
            plug, blocks = "integrations/language/paddleformers/plug.py", f"M={plan.query_block}, N={plan.key_block}"
            stages.extend([
                ("the plug of a layer", plug, f"q {shape(q)}, k and v {shape(k)}"),
                ("checks and the plan", "attention.py, plan.py", f"{blocks}, backend {plan.backend}"),
                ("importance", "eager/importance.py, kernels/importance.py", shape(scores)),
                ("levels", "eager/selection.py, kernels/selection.py", f"{shape(levels)}: 0, 1, 2, 4 or 8"),
                ("attention", "eager/attend.py, kernels/attend.py", f"out {shape(out)}"),
            ])  # fmt: skip
        return out, work

    def cut(*given):
        for patches, grid in portions(*given):
            stages.append(("patches", f"{ANSWERING}/media.py", shape(patches)))
            yield patches, grid

    def put_in(self, ids, features):
        found = embed(self, ids, features)
        if features is not None:
            stages.append(("the vision tower", f"{ANSWERING}/parts.py", shape(features)))
            stages.append(("the prompt", f"{ANSWERING}/prompt.py", f"ids {shape(ids)}, embedded {shape(found)}"))
        return found

    stages.append(("frames", "utils/media/videos.py", shape(clip.frames)))
    with ExitStack() as stack:
        for owner, name, in_its_place in (
            (eager, "psa_attention", attend), (parts, "portions", cut), (parts.Parts, "embed", put_in)
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(owner, name, in_its_place))
        answer = model.inference_video(clip, "Describe this video.", 48)
    s = model.stats()
    skipped = f"{s['average_sparsity']:.0%} of the attention work skipped, {len(plug_of(model.model).calls)} layers"
    stages.append(("statistics", "stats/records.py", skipped))
    stages.append(
        ("the answer", "integrations/language/inference.py", answer if len(answer) < 60 else answer[:57] + "...")
    )
    title = f"demo/sample.mp4 on the bundled model: {s['sequence_length']} tokens, {s['vision_tokens']} of them vision"
    return stages, maps[0], title


def text(x: float, y: float, words: str, size: int = 12, weight: str = "normal", fill: str = "#222") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}">{escape(words)}</text>'


def draw(stages, levels, title: str) -> str:
    """The picture: stages on the left, the level map on the right."""
    right = LEFT + 520
    parts = [text(LEFT, 28, title, 15, "bold")]
    for i, (name, where, what) in enumerate(stages):
        y = TOP + i * STEP
        parts.append(f'<rect x="{LEFT}" y="{y}" width="480" height="36" rx="4" fill="#fff" stroke="#888"/>')
        parts.append(text(LEFT + 8, y + 15, name, 12, "bold") + text(LEFT + 150, y + 15, where, 11, fill="#666"))
        parts.append(text(LEFT + 8, y + 30, what, 11))
        if i:
            parts.append(f'<path d="M{LEFT + 30} {y - 10}v8m-3 -4l3 4l3 -4" fill="none" stroke="#444"/>')
    parts.append(text(right, TOP + 4, "levels of layer 0, head 0", 12, "bold"))
    parts.append(text(right, TOP + 20, f"rows: {len(levels)} query blocks, columns: {len(levels[0])} key blocks", 11))
    for i, row in enumerate(levels):
        for j, level in enumerate(row):
            x, y = right + j * CELL, TOP + 32 + i * CELL
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{COLOURS[level]}" stroke="#ccc"/>'
            )
    names = {1: "full", 2: "means of 2", 4: "means of 4", 8: "means of 8", 0: "skipped", None: "after the queries"}
    for i, (level, name) in enumerate(names.items()):
        y = TOP + 48 + len(levels) * CELL + i * 18
        parts.append(f'<rect x="{right}" y="{y}" width="12" height="12" fill="{COLOURS[level]}" stroke="#ccc"/>')
        parts.append(text(right + 18, y + 10, name if level is None else f"{level}: {name}", 11))
    width = right + max(len(levels[0]) * CELL, 240) + LEFT
    height = max(TOP + len(stages) * STEP, TOP + 60 + len(levels) * CELL + len(names) * 18) + 10
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    paddle.set_device("cpu")
    OUT.write_text(draw(*record()), encoding="utf-8")
