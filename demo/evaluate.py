"""Accuracy of the demo model on a split of the visual world, by kind of question and length of clip."""

from __future__ import annotations

import numpy as np
import torch
from batched_qwen import question_states
from world import IMAGE_TYPES, VIDEO_TYPES
from world.render import draw
from world_batches import BUCKETS, FPS, PREFIX, clip_shape, encode, make_batch

QUESTIONS = 8  # about each clip


def batches(split: str, bucket: str, clips: int, tokens: int):
    """Yield batches of at most ``tokens`` vision tokens until ``clips`` clips of a bucket have been drawn."""
    rng = np.random.default_rng([0, list(BUCKETS).index(bucket)])
    done = 0
    while done < clips:
        shape = clip_shape(bucket, rng, test=True)
        each = shape[0] * shape[1] // 28**2 * max(1, shape[2] // 2)
        # A few clips of one shape, then another shape.
        count = min(clips - done, max(1, min(25, tokens // each)))
        yield make_batch(split, done + np.arange(count), shape, rng.choice(FPS[:2], count), QUESTIONS, rng)
        done += count


@torch.no_grad()
def right_answers(model, batch, prefix_ids):
    """Bool [B, questions]: greedy decoding gives the answer and its end mark, token for token."""
    device = prefix_ids.device
    ids, answer = (torch.from_numpy(x).to(device) for x in (batch.ids, batch.answer))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        states = question_states(model, draw(batch.plan, device), prefix_ids, ids, torch.from_numpy(batch.step))
        found = model.lm_head(states[..., :-1, :]).argmax(-1)
    # If every token follows from the true ones before it, greedy decoding takes the same way.
    return ((found == ids[..., 1:]) | ~answer[..., 1:]).all(-1).cpu().numpy()


def evaluate(model, split: str, clips: int, tokens: int, buckets=tuple(BUCKETS)) -> list[dict]:
    """Rows {bucket, type, language, right}, one for each question about ``clips`` clips of every bucket."""
    prefix_ids = torch.tensor(encode(PREFIX), device=next(model.parameters()).device)
    rows = []
    for bucket in buckets:
        for batch in batches(split, bucket, clips, tokens):
            right = right_answers(model, batch, prefix_ids)
            for i, asked in enumerate(batch.questions):
                for j, q in enumerate(asked):
                    rows.append({"bucket": bucket, "type": q.type, "language": q.language, "right": bool(right[i, j])})
    return rows


def accuracy_table(rows) -> str:
    """A Markdown table: a line for each kind of question, a column for each bucket, percent right."""
    buckets = [b for b in BUCKETS if any(r["bucket"] == b for r in rows)]
    types = [t for t in dict.fromkeys((*IMAGE_TYPES, *VIDEO_TYPES)) if any(r["type"] == t for r in rows)]

    def cell(bucket, **wanted):
        found = [
            r["right"] for r in rows if r["bucket"] == bucket and all(r[key] == value for key, value in wanted.items())
        ]
        return f"{100 * np.mean(found):.1f} ({len(found)})" if found else "-"

    lines = ["| % right (questions) | " + " | ".join(buckets) + " |", "|---" * (len(buckets) + 1) + "|"]
    for name in types:
        lines.append(f"| {name} | " + " | ".join(cell(b, type=name) for b in buckets) + " |")
    for language in ("en", "zh"):
        lines.append(f"| all, {language} | " + " | ".join(cell(b, language=language) for b in buckets) + " |")
    lines.append("| all | " + " | ".join(cell(b) for b in buckets) + " |")
    return "\n".join(lines)
