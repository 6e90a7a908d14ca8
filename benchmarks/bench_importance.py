"""What the importance estimate may leave out: attention error by the number of terms of each antidiagonal sum.

    python benchmarks/bench_importance.py [--length 8192]

On the CPU with the eager backend, on the video-like tensors of bench_eager_cpu.py. The error is the output's, relative
to dense attention, at the density beside it.
"""

import argparse

import paddle
from bench_eager_cpu import RATIOS, commit, cpu_name, video_qkv

from psa_paddle import AttentionConfig, pyramid_attention
from psa_paddle.config import SEED_RATIOS
from psa_paddle.eager import dense_attention

TOPK = {1: (0.0, 0.09), 2: (0.09, 0.15), 4: (0.15, 0.21), 8: (0.21, 0.33), 0: (0.33, 1.0)}
CASES = (("topk", TOPK), ("energybound", SEED_RATIOS), ("energybound", RATIOS))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192)
    args = parser.parse_args()
    paddle.set_device("cpu")
    q, k, v = video_qkv(args.length, 4, 1, 128)
    dense = dense_attention(q, k, v, True, 128**-0.5)
    print(f"{cpu_name()}, paddle {paddle.__version__}, commit {commit()}, L={args.length}, 4/1 heads, D=128, float32")
    print("| stride | terms | " + " | ".join(f"{mode}: density | error" for mode, _ in CASES) + " |")
    print("|" + "---|" * (2 + 2 * len(CASES)))
    for stride, terms in ((16, 16), (16, 8), (16, 4), (16, 2), (16, 1), (8, 8), (8, 4), (32, 32), (32, 8)):
        cells = []
        for mode, ratios in CASES:
            config = AttentionConfig(
                mask_mode=mode, mask_ratios=ratios, xattn_stride=stride, xattn_query_stride=stride,
                xattn_terms=terms, text_length=0, use_sim_mask=False, dense_below=0,
            )  # fmt: skip
            out, stats = pyramid_attention(q, k, v, config, return_stats=True)
            error = float(paddle.norm(out - dense) / paddle.norm(dense))
            cells += [f"{1 - stats.sparsity():.3f}", f"{error:.4f}"]
        print(f"| {stride} | {terms} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
