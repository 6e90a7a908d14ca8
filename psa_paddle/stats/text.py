"""The statistics of a request, and of a denoising step, as text."""

from __future__ import annotations

import numpy as np

BARS, MOST_BARS = " ▁▂▃▄▅▆▇█", 60


def format_stats(s: dict) -> str:
    """``QwenVLInference.stats()`` as a few lines of text."""
    lines = [*_request_lines(s), *_attention_lines(s)]
    return "\n".join(lines)


def _request_lines(s: dict) -> list[str]:
    speed = "-" if s["decode_tokens_per_s"] is None else f"{s['decode_tokens_per_s']:.1f} tokens/s"
    ranks = f" x {s['tensor_parallel']}" if "tensor_parallel" in s else ""
    end = ", cut off at max_tokens" if s["finish_reason"] == "length" else ""
    return [
        f"Model       {s['model']}  ({s['library']}, {s['device']}{ranks}, {s['dtype']})",
        f"Prompt      {s['sequence_length']} tokens: {s['vision_tokens']} vision, {s['text_tokens']} text",
        *(_video_lines(s["video_tokens"]) if "video_tokens" in s else []),
        f"Prefill     {s['ttft_s']:.2f} s to the first token",
        f"Decode      {speed}, {s['new_tokens']} tokens{end}",
        f"Memory      {s['peak_memory_bytes'] / 2**20:.0f} MiB at the peak",
    ]


def _video_lines(video: dict) -> list[str]:
    """How many video tokens were dropped, and a bar a frame (or a few of them) as high as what stayed of it."""
    if not video["tokens"]:
        return [f"Video       no video tokens to drop (video_tokens {video['setting']})"]
    dropped, tokens = video["dropped"], video["tokens"]
    lines = [f"Video       {dropped} of {tokens} video tokens dropped, {dropped / tokens:.1%} ({video['setting']})"]
    for clip in video["clips"]:
        kept = 1 - np.array(clip["dropped_of_frames"]) / clip["tokens_of_a_frame"]
        parts = np.array_split(kept, min(len(kept), MOST_BARS))
        bars = "".join(BARS[round(float(part.mean()) * (len(BARS) - 1))] for part in parts)
        lines.append(f"  frames    |{bars}| {len(kept)} of {clip['tokens_of_a_frame']} tokens, as high as what stayed")
    return lines


def _attention_lines(s: dict) -> list[str]:
    if s["attention"] == "dense":
        return ["Attention   dense (no --use-psa)"]
    return [
        f"Attention   {_describe_attention(s)}",
        *([f"Budgets     {_describe_budgets(s['config']['budgets'])}"] if s["config"].get("budgets") else []),
        f"Sparsity    {s['average_sparsity']:.1%} of the attention work was skipped, on average over the layers",
        f"Layers      {s['layers_sparse']} sparse, {s['layers_dense']} dense, backend {'/'.join(s['backends'])}",
        *(f"Dense       {count} calls: {reason}" for reason, count in s["dense_reasons"].items()),
        *_audit_lines(s),
        *map(_layer_line, s["layers"]),
    ]


def _audit_lines(s: dict) -> list[str]:
    """The audit of ``totals`` for a person: the error over the layers, and the warning; nothing without an audit."""
    found = [row["audit"] for row in s["layers"] if row["audit"]]
    if not found:
        return []
    mean = sum(one["error"] for one in found) / len(found)
    lines = [f"Audit       attention's output is {mean:.1%} from exact, on average over {len(found)} audited layers"]
    return lines + ([f"Warning     {s['audit_warning']}"] if s["audit_warning"] else [])


def _layer_line(row: dict) -> str:
    """One of ``rows_of``'s rows for a person."""
    line, audit = f"  layer {row['layer']:>3}  {row['sparsity']:.1%}", row["audit"]
    if audit is None:
        return line
    return (
        f"{line}, error {audit['error']:.1%} +- {audit['sampling_error']:.1%}, worst head {audit['worst_head']}: "
        f"{audit['worst_head_error']:.1%} +- {audit['worst_head_sampling_error']:.1%}"
    )


def _describe_attention(s: dict) -> str:
    """Which layers do what, in words."""
    if "triangle_layers" not in s:
        return s["attention"]
    layers = ", ".join(map(str, s["triangle_layers"]))
    if s["attention"] == "mix":
        return f"mix: TriangleMix in layers {layers}, PSA in the others"
    return f"{s['attention']}: TriangleMix in layers {layers}, dense in the others"


def _describe_budgets(budgets: dict) -> str:
    """Whose and what for, and how unequal, in words."""
    means = [sum(layer) / len(layer) for layer in budgets["factors"]]
    least, most = min(means), max(means)
    target = ", ".join(f"{name} {value:g}" for name, value in budgets["target"].items())
    return (
        f"calibrated on {budgets['model']} for {target}; the factors are {least:.2f} (layer {means.index(least)}) to "
        f"{most:.2f} (layer {means.index(most)})"
    )


def format_step(row: dict) -> str:
    """A row of ``VideoPlug.steps()`` as one line."""
    layers = f"{row['layers_sparse']} layers sparse, {row['layers_dense']} dense"
    reasons = "".join(f"; {count} calls dense: {reason}" for reason, count in row["dense_reasons"].items())
    warning = f"; {row['audit_warning']}" if row["audit_warning"] else ""
    return (
        f"run {row['run']} step {row['step']:>2} (timestep {row['timestep']:g})  "
        f"sparsity {row['average_sparsity']:6.1%}  {layers}{reasons}{warning}"
    )
