"""Draws the figures of docs/how.md from a run of the bundled model: python docs/draw_psa.py"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from xml.sax.saxutils import escape

import numpy as np
import paddle
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from psa_paddle import AttentionConfig, eager, reference  # noqa: E402
from psa_paddle.eager.operator import select  # noqa: E402
from psa_paddle.integrations.language.inference import QwenVLInference  # noqa: E402
from psa_paddle.plan import Plan  # noqa: E402
from psa_paddle.report import recording  # noqa: E402
from psa_paddle.report.figures import COLOURS, INK, LEAST, MOST, PAPER, data_uri, rgb, shades  # noqa: E402
from psa_paddle.utils.media import load_video  # noqa: E402

OUT = Path(__file__).with_name("images")
LAYER, HEAD = 1, 0  # whose figures are drawn
BLOCK = 20  # the key block that is shown at every level: of a frame in the middle of the clip
CHANNELS = 32  # of its keys
EDGE, GAP, TOP = 236, 26, 50  # pixels of a map, between maps, above them
LEVEL_COLOURS = {1: COLOURS["1"], 2: COLOURS["2"], 4: COLOURS["4"], 8: COLOURS["8"], 0: COLOURS["skipped"]}


class Seen(NamedTuple):
    """What the run attended with.

    layers: of each layer q [1, H, L, D], k and v [1, Hkv, L, D] and what the operator gave, as q, float32; plan:
    ``balanced``'s; vision: bool [L]; times: of the clip's pairs of frames, in seconds.
    """

    layers: list[tuple]
    plan: Plan
    vision: np.ndarray
    times: np.ndarray


class Steps(NamedTuple):
    """One head's steps, each [query blocks, key blocks]: the estimate, the levels, exact attention by pairs of blocks,
    rows adding up to 1; valid: which pairs there are; error: relative, of the head's output."""

    estimate: np.ndarray
    levels: np.ndarray
    exact: np.ndarray
    valid: np.ndarray
    error: float

    def pairs_kept(self) -> float:
        """Share of the pairs of blocks that are not skipped."""
        return float((self.levels > 0).sum() / self.valid.sum())

    def mass_kept(self) -> float:
        """Share of exact attention that falls on them, the mean over query blocks."""
        return float((self.exact * (self.levels > 0)).sum(1).mean())


def record() -> Seen:
    """Ask the bundled model about its sample, as make demo does."""
    attend, layers, plans = eager.psa_attention, [], []

    def watch(q, k, v, plan):
        out, work = attend(q, k, v, plan)
        layers.append((q, k, v, out))
        plans.append(plan)
        return out, work

    model = QwenVLInference("demo", "float32", use_psa=True)
    clip = load_video(str(ROOT / "demo" / "sample.mp4"), fps=2)
    with recording(model, [LAYER]) as seen, mock.patch.object(eager, "psa_attention", watch):
        model.inference_video(clip, "Describe this video.", 1, streamer=seen)
    return Seen(layers, plans[0], seen.vision, np.asarray(model.stats()["frame_times_s"][::2]))


def every_head(seen: Seen) -> dict[tuple[int, int], Steps]:
    """By layer and head."""
    found, plan = {}, seen.plan
    for layer, (q, k, v, out) in enumerate(seen.layers):
        estimates = eager.importance(q, k, plan)
        levels = select(estimates, k, q.shape[2], plan)[0].numpy()
        valid, _ = reference.block_grid(q.shape[2], k.shape[2], plan.query_block, plan.key_block, True)
        for head in range(q.shape[1]):
            kv = head // (q.shape[1] // k.shape[1])
            mass, exact = dense(q[0, head], k[0, kv], v[0, kv], plan)
            error = np.linalg.norm(out[0, head].numpy() - exact) / np.linalg.norm(exact)
            found[layer, head] = Steps(estimates[0, head].numpy(), levels[head], mass, valid, float(error))
    return found


def dense(q, k, v, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Exact attention of one head, by pairs of blocks and as what it gives, [L, D]; q, k, v: [L, D]."""
    mass, outs = [], []
    for start in range(0, len(q), plan.query_block):  # rows of a block see no key after it
        rows = q[start : start + plan.query_block]
        stop = start + len(rows)
        later = paddle.triu(paddle.full([len(rows), stop], -1e9), start + 1)
        weights = paddle.nn.functional.softmax(rows @ k[:stop].T * plan.scale + later)
        outs.append((weights @ v[:stop]).numpy())
        mass.append(np.zeros(-(-len(k) // plan.key_block)))
        shares = np.add.reduceat(weights.numpy().mean(0), np.arange(0, stop, plan.key_block))
        mass[-1][: len(shares)] = shares
    return np.stack(mass), np.concatenate(outs)


def upstream_levels(seen: Seen) -> np.ndarray:
    """The head's level map with upstream's ratios, which use every level."""
    q, k, *_ = seen.layers[LAYER]
    config = AttentionConfig.preset("seed", text_length=seen.plan.forced_text, dense_below=0)
    kv = HEAD // (q.shape[1] // k.shape[1])
    plan = Plan.of(config, seen.plan.scale, "eager")
    q, k = q[:, HEAD : HEAD + 1], k[:, kv : kv + 1]
    return select(eager.importance(q, k, plan), k, q.shape[2], plan)[0, 0].numpy()


def text(x: float, y: float, words: str, size: int = 12, weight: str = "normal", anchor: str = "start") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{INK}">{escape(words)}</text>'
    )


def picture(x: float, y: float, width: float, height: float, pixels: np.ndarray) -> str:
    """Pixels [n, m, 3] as a frame of this size."""
    where = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    data = data_uri(Image.fromarray(pixels.astype(np.uint8)))
    return (
        f'<image {where} preserveAspectRatio="none" style="image-rendering:pixelated" href="{data}"/>'
        f'<rect {where} fill="none" stroke="#888"/>'
    )


def sheet(width: float, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    paper = f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>'
    return "\n".join([f'{head} height="{height:g}" font-family="sans-serif">', paper, *parts, "</svg>"]) + "\n"


def legend(x: float, y: float, colours: list[tuple[str, str]]) -> list[str]:
    """(colour, words) side by side; a word takes 7 pixels a letter, or 13 where letters are wide."""
    parts = []
    for colour, words in colours:
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="12" height="12" fill="{colour}" stroke="#888"/>')
        parts.append(text(x + 18, y + 10, words))
        x += 40 + sum(13 if ord(letter) > 255 else 7 for letter in words)
    return parts


def hues(values: np.ndarray) -> np.ndarray:
    """Numbers as colours, the largest of each row darkest, uint8 [..., 3]."""
    return shades(values / np.maximum(values.max(-1, keepdims=True), 1e-30))


def level_pixels(levels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    pixels = np.broadcast_to(rgb(PAPER), (*levels.shape, 3)).copy()
    for level, colour in LEVEL_COLOURS.items():
        pixels[valid & (levels == level)] = rgb(colour)
    return pixels


def draw_pyramid(seen: Seen, heads: dict, words: dict) -> str:
    """A key block at every level: its keys, and means of 2, 4 and 8 of them."""
    size = seen.plan.key_block
    keys = seen.layers[LAYER][1][0, 0].numpy()[BLOCK * size : (BLOCK + 1) * size]
    levels = reference.pyramid(keys[None], size)
    top = np.abs(keys[:, :CHANNELS]).max()
    parts, x, step = [text(GAP, 24, words["pyramid"].format(size, CHANNELS), 14, "bold")], GAP, 164
    for level, rows in levels.items():
        cells = rows[0][:, :CHANNELS] / top
        blue, red = rgb(COLOURS["1"]), rgb("#b3431f")
        side = np.where(cells[..., None] < 0, red, blue)
        parts.append(text(x, TOP - 4, words["level"].format(level), 12, "bold"))
        pixels = np.round(255 + (side - 255) * np.abs(cells)[..., None])
        parts.append(picture(x, TOP + 6, CHANNELS * 4, len(cells) * 4, pixels))
        parts.append(text(x, TOP + 22 + len(cells) * 4, words["rows"].format(len(cells))))
        if level > 1:
            parts.append(text(x, TOP + 38 + len(cells) * 4, f"+ ln {level} = {np.log(level):.2f}"))
        x += step
    return sheet(x, TOP + size * 4 + 50, parts)


def draw_steps(seen: Seen, heads: dict, words: dict) -> str:
    """The estimate, what is kept by it, and what attention is there."""
    one = heads[LAYER, HEAD]
    valid = one.valid
    maps = (hues(one.estimate), level_pixels(one.levels, valid), hues(one.exact))
    notes = (
        words["note estimate"].format(seen.plan.strides[0], seen.plan.strides[1]),
        words["note levels"].format(one.pairs_kept()),
        words["note exact"].format(one.mass_kept(), one.error),
    )
    parts = [text(GAP, 24, words["steps"].format(LAYER, HEAD, len(valid[0]), len(valid)), 14, "bold")]
    for i, (pixels, title, note) in enumerate(zip(maps, words["panels"], notes, strict=True)):
        x = GAP + i * (EDGE + GAP)
        pixels = np.where(valid[..., None], pixels, rgb(PAPER))
        parts += [text(x, TOP, title, 12, "bold"), picture(x, TOP + 10, EDGE, EDGE, pixels)]
        parts.append(text(x, TOP + EDGE + 28, note))
    parts += legend(GAP, TOP + EDGE + 44, [(LEAST, words["little"]), (MOST, words["much"])])
    kept = [(LEVEL_COLOURS[1], words["kept"]), (LEVEL_COLOURS[0], words["skipped"])]
    parts += legend(GAP * 2 + EDGE, TOP + EDGE + 44, kept)
    kept_mass, errors = [x.mass_kept() for x in heads.values()], [x.error for x in heads.values()]
    ranges = words["all heads"].format(len(heads), min(kept_mass), max(kept_mass), min(errors), max(errors))
    parts.append(text(GAP, TOP + EDGE + 82, ranges))
    return sheet(GAP + 3 * (EDGE + GAP), TOP + EDGE + 98, parts)


def draw_map(seen: Seen, heads: dict, words: dict) -> str:
    """The sample's level map, the times of its frames along the keys: ``balanced``, and upstream's ratios."""
    length, edge = len(seen.vision), 330
    balanced = heads[LAYER, HEAD]
    valid = balanced.valid
    parts = [text(GAP, 24, words["map"].format(length, int(seen.vision.sum())), 14, "bold")]
    first, last = np.flatnonzero(seen.vision)[[0, -1]]
    for i, (levels, title) in enumerate(zip((balanced.levels, upstream_levels(seen)), words["maps"], strict=True)):
        x = GAP + 20 + i * (edge + 2 * GAP)
        work = sum((levels == level).sum() / level for level in (1, 2, 4, 8)) / valid.sum()
        parts += [text(x, TOP, title.format(work), 12, "bold")]
        parts.append(picture(x, TOP + 10, edge, edge, level_pixels(levels, valid)))
        for second in range(0, round(seen.times[-1]) + 1, 5):
            tokens = first + np.arange(len(seen.times)) * (last + 1 - first) / len(seen.times)
            place = np.interp(second, seen.times, tokens) / length * edge
            parts.append(f'<path d="M{x + place:.1f} {TOP + 10 + edge}v5" stroke="{INK}"/>')
            parts.append(text(round(x + place, 1), TOP + edge + 28, f"{second} s", 10, anchor="middle"))
    parts.append(text(GAP + 20, TOP + edge + 46, words["axes"]))
    every = [(LEVEL_COLOURS[level], words["way"][level]) for level in (1, 2, 4, 8, 0)]
    parts += legend(GAP + 20, TOP + edge + 58, every)
    return sheet(2 * (edge + 2 * GAP) + GAP, TOP + edge + 84, parts)


WORDS: dict[str, dict] = {
    "": {
        "pyramid": "A block of {} keys of the sample video at every level, {} of their channels",
        "level": "level {}",
        "rows": "{} rows",
        "steps": "One head of the demo model (layer {}, head {}): {} key blocks across, {} query blocks down",
        "panels": ("1. Estimate", "2. Select", "3. Attend: where exact attention is"),
        "note estimate": "one of {} queries looks at one of {} keys",
        "note levels": "{:.0%} of the pairs of blocks are kept",
        "note exact": "{:.0%} of it is kept; the output is off by {:.0%}",
        "little": "little",
        "much": "most of the row",
        "kept": "kept, level 1",
        "skipped": "skipped",
        "all heads": "All {} heads of the model: {:.0%} to {:.0%} of exact attention is kept, outputs are off by "
        "{:.0%} to {:.0%}.",
        "map": "Level map of demo/sample.mp4 at 2 frames a second: {} tokens, {} of them vision",
        "maps": ("balanced: {:.0%} of dense attention's work", "seed, upstream's ratios: {:.0%}"),
        "axes": "across: time of the key's frame; down: query blocks, from the first frame to the question",
        "way": {1: "1: as they are", 2: "2: means of 2", 4: "4: means of 4", 8: "8: means of 8", 0: "0: skipped"},
    },
    "_zh": {
        "pyramid": "示例视频中一个含 {} 个键的块在各级别下的样子（每个键取 {} 个通道）",
        "level": "级别 {}",
        "rows": "{} 行",
        "steps": "演示模型的一个头（第 {} 层第 {} 头）：横向 {} 个键块，纵向 {} 个查询块",
        "panels": ("1. 估计", "2. 选择", "3. 计算：精确注意力的分布"),
        "note estimate": "每 {} 个查询取一个，看每 {} 个键中的一个",
        "note levels": "保留了 {:.0%} 的块对",
        "note exact": "其中 {:.0%} 被保留；输出相差 {:.0%}",
        "little": "少",
        "much": "该行中最多",
        "kept": "保留，级别 1",
        "skipped": "跳过",
        "all heads": "模型全部 {} 个头：精确注意力保留 {:.0%} 至 {:.0%}，输出相差 {:.0%} 至 {:.0%}。",
        "map": "demo/sample.mp4 每秒 2 帧时的级别图：{} 个 token，其中 {} 个是视觉 token",
        "maps": ("balanced：稠密注意力计算量的 {:.0%}", "seed，上游的比例：{:.0%}"),
        "axes": "横向：键所在帧的时间；纵向：查询块，从第一帧到问题",
        "way": {1: "1：原样", 2: "2：每 2 个平均", 4: "4：每 4 个平均", 8: "8：每 8 个平均", 0: "0：跳过"},
    },
}
DRAWINGS = {"pyramid": draw_pyramid, "steps": draw_steps, "level_map": draw_map}


def draw(folder: Path) -> None:
    """Write every figure in both languages into a folder."""
    paddle.set_device("cpu")
    seen = record()
    heads = every_head(seen)
    for name, drawing in DRAWINGS.items():
        for suffix, words in WORDS.items():
            (folder / f"{name}{suffix}.svg").write_text(drawing(seen, heads, words), encoding="utf-8")


if __name__ == "__main__":
    draw(OUT)
