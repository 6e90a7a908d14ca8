"""Attention of Qwen2.5-VL-7B's vision tower in the forms that it can take on one GPU, with torch tensors.

    python benchmarks/bench_vision_tower.py --csv vision_tower.csv
    python benchmarks/bench_vision_tower.py --whole --frames 36x36 --csv vision_tower_whole.csv

A stand-in for PaddleFormers' tower (16 heads of 80, windows of 64 patches, full attention in a frame; random bfloat16
tensors): each row is one layer's attention over one portion of a video, 16,384 patches at most, as the tower is handed
them. Forms:

    each        a call of torch's SDPA for each segment, as PaddleFormers 1.2 makes them
    batched     segments of one length in one call; by torch's own choice, FlashAttention-2 or cuDNN
    varlen      all segments in one call of torch's varlen_attn
    ours        segments of one length in one call of our kernels at level 1; wide: heads padded to 128, which the
                Hopper kernel takes
    sparse      the preset "balanced" without causality, segments of one length in one call; of full layers

Batched forms gather the segments of a length and put their rows back, which is timed, too. Beside them the layer's
linear projections, and the patch embedding as a convolution and as a product. error is the relative error against
"each" in float32. video_ms is for 262,144 patches (65,536 tokens): the portion's time for each of its portions. Needs
torch and Triton, no Paddle.

--whole times all portions of such a video through Hugging Face's tower of that shape with random weights, whose
attention calls SDPA for each segment as PaddleFormers' does: so, and batched. Needs transformers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
import torch.nn.functional as F
from common import facts, gpu_name, header, line, machine_line, time_ms, write_csv
from torch.nn.attention import SDPBackend, sdpa_kernel

from psa_paddle import kernels
from psa_paddle.config import AttentionConfig
from psa_paddle.plan import Plan

FIELDS = ("frame", "patches", "segments", "layer", "form", "launches", "ms", "video_ms", "error", "density")
PORTION, VIDEO, WINDOW = 16384, 262144, 8  # patches, patches, patches a side
WIDE, SPARSE_FROM = 128, 256
BACKENDS = {"": None, " flash": SDPBackend.FLASH_ATTENTION, " cudnn": SDPBackend.CUDNN_ATTENTION}


def window_lengths(height: int, width: int) -> list[int]:
    """Patches of each window of a frame."""
    sides = [[min(WINDOW, side - first) for first in range(0, side, WINDOW)] for side in (height, width)]
    return [a * b for a in sides[0] for b in sides[1]]


class Segments:
    """Runs of rows that attend to themselves alone, gathered by their length."""

    def __init__(self, lengths: list[int], device: str):
        ends = torch.tensor(lengths).cumsum(0)
        self.spans = [(int(end) - n, int(end)) for end, n in zip(ends, lengths, strict=True)]
        self.starts = F.pad(ends, (1, 0)).int().to(device)
        self.longest, self.groups = max(lengths), {n: lengths.count(n) for n in sorted(set(lengths))}
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        rows = torch.cat([torch.arange(*self.spans[i]) for i in order])
        self.rows = None if len(self.groups) == 1 else rows.to(device)
        self.back = None if self.rows is None else torch.argsort(self.rows)

    def each(self, q, k, v, run):
        """A call a segment; tensors [L, H, D]."""
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        return torch.cat([run(*(x[:, :, a:b] for x in (q, k, v)))[0] for a, b in self.spans], 1).transpose(0, 1)

    def batched(self, q, k, v, run):
        """A call a length, of [segments, H, length, D]."""
        if self.rows is not None:
            q, k, v = (x[self.rows] for x in (q, k, v))
        out, first = [], 0
        for length, count in self.groups.items():
            part = [x[first : first + length * count].unflatten(0, (count, length)) for x in (q, k, v)]
            out.append(run(*(x.transpose(1, 2) for x in part)).transpose(1, 2).flatten(0, 1))
            first += length * count
        return out[0] if self.back is None else torch.cat(out)[self.back]


def sdpa(backend):
    def run(q, k, v):
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return run


def ours(config: AttentionConfig, scale: float, wide: bool, work: list):
    """Our operator; work: takes what each call kept."""
    plan = Plan.of(config, scale, heads_last=True)

    def run(q, k, v):
        dim = q.shape[-1]
        if wide:
            q, k, v = (F.pad(x, (0, WIDE - dim)) for x in (q, k, v))
        out, kept = kernels.psa_fwd(q, k, v, plan)
        work.append(kept)
        return out[..., :dim].transpose(1, 2)

    return run


def forms(segments: Segments, dim: int):
    """(name, calls, run, what was kept) of every form; run takes q, k, v [L, H, D]."""
    lengths = len(segments.groups)
    yield "each", len(segments.spans), lambda *x: segments.each(*x, sdpa(None)), None
    for name, backend in BACKENDS.items():
        yield f"batched{name}", lengths, lambda *x, b=backend: segments.batched(*x, sdpa(b)), None
    starts, longest = segments.starts, segments.longest
    yield "varlen", 1, lambda *x: varlen(*x, starts, longest), None
    shared = dict(causal=False, text_length=0, dense_below=0)
    one = AttentionConfig(mask_ratios={1: (0.0, 1.0)}, block_means=False, **shared)
    sparse = [("sparse", AttentionConfig.preset("balanced", **shared))] if longest > SPARSE_FROM else []
    for name, config in (("ours", one), *sparse):
        for wide in (False, True):
            work: list = []
            run = ours(config, dim**-0.5, wide, work)
            yield f"{name}{' wide' * wide}", lengths, lambda *x, r=run: segments.batched(*x, r), work


def varlen(q, k, v, starts, longest: int):
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(q, k, v, starts, starts, longest, longest)


def density(work: list, segments: Segments, heads: int) -> float:
    """The share of block pairs that a call of the form kept."""
    config = AttentionConfig()
    pairs = [
        count * -(-n // config.query_block) * -(-n // config.key_block) * heads for n, count in segments.groups.items()
    ]
    return sum(float(x.sum(dtype=torch.float64)) for x in work[: len(pairs)]) / sum(pairs)


def attention_rows(q, k, v, layer: str, segments: Segments):
    """A row a form; one that this torch cannot run says so."""
    exact = segments.each(*(x.float() for x in (q, k, v)), sdpa(None))
    for name, launches, run, work in forms(segments, q.shape[2]):
        row = dict(segments=len(segments.spans), layer=layer, form=name, launches=launches)
        try:
            out = run(q, k, v)
        except (RuntimeError, ImportError, TypeError) as error:
            print(f"{layer}, {name}: {str(error).splitlines()[0]}", flush=True)
            continue
        if not name.startswith("sparse"):  # of drawn tensors it would say nothing
            row["error"] = float((out.float() - exact).norm() / exact.norm())
        row["density"] = 1.0 if work is None else density(work, segments, q.shape[1])
        row["ms"] = time_ms(lambda run=run: run(q, k, v))
        if work is not None:
            work.clear()
        yield row


def other_rows(patches: int, args):
    """The layer's projections, and the patch embedding in two ways."""
    width, inner, pixels = args.heads * args.dim, args.inner, 3 * 2 * 14 * 14
    new = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    x, y = new(patches, width), new(patches, inner)
    qkv, proj, up, down = new(3 * width, width), new(width, width), new(inner, width), new(width, inner)
    image, weight = new(patches, pixels), new(width, 3, 2, 14, 14)
    layers = ((x, qkv), (x, proj), (x, up), (x, up), (y, down))
    runs = {
        "projections": lambda: [F.linear(*layer) for layer in layers],
        "patches, convolution": lambda: F.conv3d(image.view(-1, 3, 2, 14, 14), weight, stride=(2, 14, 14)),
        "patches, product": lambda: F.linear(image, weight.flatten(1)),
    }
    for name, run in runs.items():
        yield dict(layer="other", form=name, ms=time_ms(run))


def bench(frame: str, args):
    """Rows of one size of frames, "rows x columns" of patches."""
    height, width = map(int, frame.split("x"))
    frames = max(1, PORTION // (height * width))
    patches = frames * height * width
    q, k, v = torch.randn((3, patches, args.heads, args.dim), device="cuda", dtype=torch.bfloat16).unbind(0)
    for layer, lengths in (("window", window_lengths(height, width)), ("full", [height * width])):
        yield from (
            dict(row, frame=frame, patches=patches)
            for row in attention_rows(q, k, v, layer, Segments(lengths * frames, "cuda"))
        )
    yield from (dict(row, frame=frame, patches=patches) for row in other_rows(patches, args))


class Batched:
    """Stands in the attention layers of Hugging Face's tower: segments of a length in one call."""

    NAME = "bench_batched"

    def __init__(self, tower):
        from transformers import AttentionInterface

        AttentionInterface.register(self.NAME, self.attend)
        self.known: dict = {}
        for block in tower.blocks:
            block.attn.forward = partial(self.see, block.attn.forward)

    def see(self, own, x, cu_seqlens, **how):
        if id(cu_seqlens) not in self.known:
            self.known[id(cu_seqlens)] = cu_seqlens, Segments(cu_seqlens.diff().tolist(), "cuda")
        whole = torch.tensor([0, x.shape[0]], device=x.device, dtype=cu_seqlens.dtype)
        return own(x, cu_seqlens=whole, segments=self.known[id(cu_seqlens)][1], **how)

    @staticmethod
    def attend(layer, q, k, v, attention_mask, segments, **how):
        out = segments.batched(*(x[0].transpose(0, 1) for x in (q, k, v)), sdpa(None))
        return out.unsqueeze(0), None


def make_tower(args):
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    shape = dict(depth=args.layers, hidden_size=args.heads * args.dim, intermediate_size=args.inner)
    full = [i for i in range(args.layers) if i % 8 == 7]
    config = Qwen2_5_VLVisionConfig(num_heads=args.heads, out_hidden_size=3584, fullatt_block_indexes=full, **shape)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        tower = library.Qwen2_5_VisionTransformerPretrainedModel(config).to(torch.bfloat16).eval()
    return tower


def whole(frame: str, args):
    """Rows of a whole video's way through the tower."""
    height, width = map(int, frame.split("x"))
    frames = max(1, PORTION // (height * width))
    count, patches = -(-VIDEO // (frames * height * width)), frames * height * width
    tower, grid = make_tower(args), torch.tensor([[frames, height, width]], device="cuda")
    pixels, taken, wanted = torch.randn((patches, 1176), device="cuda", dtype=torch.bfloat16), None, None

    def see():
        if taken is not None:
            taken.known.clear()
        return tower(pixels, grid)[0]

    for form in ("each", "batched"):
        if form == "batched":
            taken = Batched(tower)
            tower.config._attn_implementation = Batched.NAME
        out, times = see().float(), []
        wanted = out if wanted is None else wanted
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                see()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e3)
        error = float((out - wanted).norm() / wanted.norm())
        ms = statistics.median(times)
        yield dict(frame=frame, patches=patches, layer="all", form=form, ms=ms / count, video_ms=ms, error=error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", default=["18x24", "36x36", "48x64"], help="in patches (%(default)s)")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--dim", type=int, default=80)
    parser.add_argument("--inner", type=int, default=3420, help="width of the MLP (%(default)s)")
    parser.add_argument("--whole", action="store_true", help="Hugging Face's tower instead of single layers")
    parser.add_argument("--layers", type=int, default=32, help="with --whole (%(default)s)")
    parser.add_argument("--csv", help="write the rows there")
    args = parser.parse_args()
    torch.manual_seed(0)
    found, rows = facts(gpu_name(), "torch", "triton", *(["transformers"] if args.whole else [])), []
    print(machine_line(found))
    print(header(FIELDS))
    with torch.inference_mode():
        for frame in args.frames:
            for row in whole(frame, args) if args.whole else bench(frame, args):
                rows.append(dict(video_ms=row["ms"] * VIDEO / row["patches"]) | row)
                print(line(rows[-1].get(name) for name in FIELDS), flush=True)
            torch.cuda.empty_cache()
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
