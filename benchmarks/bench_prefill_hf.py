"""Prefill of a 7B Qwen2.5-VL language model, dense against the Triton operator, on one GPU, with torch tensors.

    python benchmarks/bench_prefill_hf.py                               # 16k to 128k tokens, density 0.25
    python benchmarks/bench_prefill_hf.py --density --ratios quality balanced fast                       # the presets
    python benchmarks/bench_prefill_hf.py --ratios seed --density 0.15 0.25 --lengths 65536 131072 --csv prefill.csv
    python benchmarks/bench_prefill_hf.py --density --ratios balanced --lengths 65536 --video-tokens 1 0.5

A stand-in for end-to-end speed: Hugging Face's Qwen2_5_VLTextModel with the shapes of Qwen2.5-VL-7B and random bfloat16
weights (nothing is downloaded) reads one prompt with an empty KV cache and computes the logits of the last position.
The vision tower is left out: the prompt is given as random embeddings, so that a real prompt takes the tower's time on
top, the same for all columns. Nothing is said about answers.

One model runs with three attentions, switched in transformers' attention registry: dense (torch SDPA, cuDNN), psa
(``psa_fwd``, which writes [B, L, H, D] at once) and none (the queries are returned: the floor that no attention can go
below). speedup = dense / psa; gain = (dense - psa) / (dense - floor), the share of what attention can give at most.
Milliseconds are the median of 3 runs after a warm-up, by CUDA events.

Random weights give attention without structure, so densities that come from real attention cannot be had here.
--density D therefore fixes the share of blocks by rank (topk, levels 1, 2, 4, 8 as in attention_cases.py) so that about
D of the dense work remains; --ratios takes attention_cases.py's named ratios, whose energy bounds on flat importance
act as such shares too. The column density is what was measured, over all layers. The similarity cap is off: it would
send the pooled blocks of random keys back to level 1. Which blocks are kept does not change the cost much; how many do.

--video-tokens 0.5 reads half of the prompt's video tokens, clips of PLACES tokens a frame before the question; psa_ms
then holds the choice and the gathering, too. dense and floor read the whole prompt.

First, 1,000 tokens go through psa with all blocks at level 1, and the hidden states of all positions must match dense.
Needs torch, Triton and transformers 5, no Paddle.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass

import numpy as np
import torch
from attention_cases import CASES, by_density
from common import facts, gpu_name, header, line, machine_line, write_csv
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from psa_paddle import kernels
from psa_paddle.config import ALL_LEVEL_ONE, AttentionConfig
from psa_paddle.geometry import Geometry
from psa_paddle.plan import Plan
from psa_paddle.video_tokens import check_video_tokens, choose

DEVICE = "cuda"
DENSE_BACKEND = SDPBackend.CUDNN_ATTENTION
SHAPE = dict(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_attention_heads=28, num_key_value_heads=4,
    max_position_embeddings=128000, rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
)  # fmt: skip
RUNS, ROUND_TOKENS = 3, 2**18  # rounds at least; shorter prompts take more
CHECK_LENGTH = 1000
PLACES = 360  # merged tokens of a frame of 560 x 504 pixels
FIELDS = (
    "L", "layers", "case", "N", "video_tokens", "rows", "density", "dense_ms", "psa_ms", "floor_ms", "speedup", "gain"
)  # fmt: skip


class Attentions:
    """The three attentions in transformers' convention: q [B, H, L, D], k and v [B, Hkv, L, D] -> ([B, L, H, D], None).

    ``config`` is psa's; ``work`` collects what each of its calls kept, on the device.
    """

    NAMES = ("dense", "psa", "none")

    def __init__(self):
        self.config, self.work = AttentionConfig(), []

    def register(self) -> None:
        for name in self.NAMES:
            AttentionInterface.register(f"bench_{name}", getattr(self, name))

    @staticmethod
    def _check(q, k, mask) -> None:
        if mask is not None or q.shape[2] != k.shape[2]:
            raise RuntimeError(f"expected a prefill without a mask, got q {q.shape}, k {k.shape}, mask {mask}")

    def dense(self, module, q, k, v, mask, scaling, **kwargs):
        self._check(q, k, mask)
        with sdpa_kernel(DENSE_BACKEND):
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scaling, enable_gqa=True
            )
        return out.transpose(1, 2), None

    def psa(self, module, q, k, v, mask, scaling, **kwargs):
        self._check(q, k, mask)
        out, work = kernels.psa_fwd(q, k, v, Plan.of(self.config, scaling, heads_last=True))
        self.work.append(work)
        return out, None

    def none(self, module, q, k, v, mask, scaling, **kwargs):
        self._check(q, k, mask)
        return q.transpose(1, 2), None


class Prefill:
    """The model, its head and the attentions; built on the device, in bfloat16, with random weights."""

    def __init__(self, layers: int):
        self.attentions = Attentions()
        self.attentions.register()
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(DEVICE):
                self.model = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(num_hidden_layers=layers, **SHAPE)).eval()
                self.head = torch.nn.Linear(SHAPE["hidden_size"], SHAPE["vocab_size"], bias=False)
        finally:
            torch.set_default_dtype(before)
        dtypes = {x.dtype for x in self.model.parameters()}
        if dtypes != {torch.bfloat16} or self.model.rotary_emb.inv_freq.dtype != torch.float32:
            raise RuntimeError(f"weights should be bfloat16 and inv_freq float32, got {dtypes}")

    def prompt(self, length: int):
        g = torch.Generator(device=DEVICE).manual_seed(1)
        return torch.randn(1, length, SHAPE["hidden_size"], device=DEVICE, generator=g, dtype=torch.bfloat16)

    def hidden(self, embeddings, name: str, positions=None):
        """Hidden states of all positions and the filled KV cache."""
        self.model.set_attn_implementation(f"bench_{name}")
        if self.model.config._attn_implementation != f"bench_{name}":
            raise RuntimeError("transformers did not take the registered attention")
        found = self.model(inputs_embeds=embeddings, position_ids=positions, use_cache=True)
        if found.past_key_values.get_seq_length() != embeddings.shape[1]:
            raise RuntimeError("the KV cache was not filled")
        return found.last_hidden_state, found.past_key_values

    def __call__(self, embeddings, setting):
        """Logits of the last position; the cache lives until they are there."""
        positions = None
        if setting.video_tokens != 1:
            embeddings, positions = fewer(embeddings, setting)
        hidden, cache = self.hidden(embeddings, setting.attention, positions)
        return self.head(hidden[:, -1:]), cache

    def density(self, length: int) -> float:
        """Share of the dense work of ``length`` rows that psa's last run did, over all layers and heads."""
        config = self.attentions.config
        grid = Geometry(length, length, config.query_block, config.key_block, True)
        work = self.attentions.work
        heads = len(work) * SHAPE["num_attention_heads"]
        return sum(float(x.sum(dtype=torch.float64)) for x in work) / (grid.n_pairs() * heads)


@dataclass(frozen=True)
class Setting:
    """What reads the prompt: the attention's name, psa's config and what stays of the video tokens."""

    attention: str
    config: AttentionConfig | None = None
    video_tokens: float | str = 1


def fewer(embeddings, setting):
    """The rows [1, rows, hidden] that stay of a prompt, and their positions [3, 1, rows]."""
    length = embeddings.shape[1]
    video = (length - setting.config.text_length) // PLACES * PLACES
    kept = choose(embeddings[0, :video].unflatten(0, (-1, PLACES)), setting.video_tokens)
    rows = np.concatenate([np.flatnonzero(kept), np.arange(video, length)])
    rows = torch.from_numpy(rows).to(embeddings.device)
    return embeddings[:, rows], rows.expand(3, 1, -1)


def call_ms(run) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    del result
    return start.elapsed_time(end)


def measure(prefill, embeddings, settings: list[Setting]) -> list[tuple[float, float, int]]:
    """``(milliseconds, density, rows)`` of each setting: medians over rounds that take every setting once, as the GPU's
    clock drifts. Raises when logits are not finite."""
    length = embeddings.shape[1]
    rounds = max(RUNS, ROUND_TOKENS // length)
    times, found = [[] for _ in settings], []
    for number in range(-1, rounds):  # the first one warms up
        for taken, setting in zip(times, settings, strict=True):
            prefill.attentions.config = setting.config
            prefill.attentions.work.clear()
            if number >= 0:
                taken.append(call_ms(lambda setting=setting: prefill(embeddings, setting)))
                continue
            logits, cache = prefill(embeddings, setting)
            if not bool(torch.isfinite(logits).all()):
                raise RuntimeError(f"{setting}: logits are not finite")
            rows = cache.get_seq_length()
            del logits, cache
            found.append((prefill.density(rows) if setting.attention == "psa" else 1.0, rows))
    return [(statistics.median(t), *f) for t, f in zip(times, found, strict=True)]


def check_wiring(prefill, key_block: int) -> bool:
    """psa with all blocks at level 1 is dense, for every position; without attention the states are far away."""
    prefill.attentions.config = AttentionConfig(key_block=key_block, mask_ratios=ALL_LEVEL_ONE, text_length=0)
    embeddings = prefill.prompt(CHECK_LENGTH)
    dense, psa, none = (prefill.hidden(embeddings, name)[0].float() for name in Attentions.NAMES)
    error, far = (float((x - dense).norm() / dense.norm()) for x in (psa, none))
    good = error < 0.1 * far
    print(f"{'ok  ' if good else 'FAIL'} all blocks at level 1 against dense, {CHECK_LENGTH} tokens: relative error of "
          f"the hidden states {error:.2g} (without attention: {far:.2g})\n", flush=True)  # fmt: skip
    return good


def bench(prefill, length: int, cases, args):
    """Yield one row a case and share of the video tokens."""
    settings, names = [Setting("dense"), Setting("none")], []
    for name, fields in cases:
        shared = dict(key_block=args.key_block, text_length=args.text_length, block_means=False)
        config = AttentionConfig(**{**shared, **fields})
        settings += [Setting("psa", config, share) for share in args.video_tokens]
        names += [name] * len(args.video_tokens)
    (dense, *_), (floor, *_), *found = measure(prefill, prefill.prompt(length), settings)
    for case, setting, (psa, density, rows) in zip(names, settings[2:], found, strict=True):
        row = dict(L=length, layers=args.layers, N=args.key_block, dense_ms=dense, floor_ms=floor, case=case)
        row.update(psa_ms=psa, density=density, video_tokens=setting.video_tokens, rows=rows)
        yield dict(row, speedup=dense / psa, gain=(dense - psa) / (dense - floor))


def share(text: str) -> float | str:
    return check_video_tokens(text if text == "auto" else float(text))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16384, 32768, 65536, 131072])
    parser.add_argument("--density", type=float, nargs="*", default=[0.25])
    parser.add_argument("--ratios", nargs="*", choices=CASES, default=[])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--text-length", type=int, default=64, help="last tokens that stay at level 1: the question")
    parser.add_argument("--video-tokens", type=share, nargs="+", default=[1.0], help="what stays of them (all)")
    parser.add_argument("--key-block", type=int, default=64)
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    found = facts(gpu_name(), "torch", "triton", "transformers")
    print(machine_line(found))
    cases = [(name, CASES[name]) for name in args.ratios]
    cases += [(f"{d:g}", by_density(d)) for d in args.density]
    rows = []
    with torch.inference_mode():
        prefill = Prefill(args.layers)
        if not check_wiring(prefill, args.key_block):
            sys.exit(1)
        print(header(FIELDS))
        for length in args.lengths:
            for row in bench(prefill, length, cases, args):
                rows.append(row)
                print(line(row[f] for f in FIELDS), flush=True)
            torch.cuda.empty_cache()
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
