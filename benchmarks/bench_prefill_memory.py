"""Peak memory of the prefill of a Qwen2.5-VL-7B-shaped text model, whole or in chunks, on one GPU; torch, bf16.

    python benchmarks/bench_prefill_memory.py --lengths 16384 65536 131072 --chunks 0 8192

What ``psa-paddle plan`` says of activations is tested against these rows. Hugging Face's Qwen2_5_VLTextModel with a
few layers and random weights reads random embeddings; ``psa_fwd`` and torch's SDPA (cuDNN) are its attention.
``peak_mib``: over the weights and what is held before the call; ``cache_mib``: of it the KV cache at the end;
``activations_mib``: the rest, which does not grow with the layers. chunk 0: the whole prompt in one call. Needs torch,
Triton and transformers 5.
"""

import argparse

import torch
from common import facts, gpu_name, header, line, machine_line, write_csv
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from psa_paddle import kernels
from psa_paddle.config import AttentionConfig
from psa_paddle.plan import Plan

SHAPE = dict(
    vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_attention_heads=28, num_key_value_heads=4,
    max_position_embeddings=1 << 20, rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
)  # fmt: skip
FIELDS = ("layers", "L", "chunk", "attention", "peak_mib", "cache_mib", "activations_mib")
CONFIG = AttentionConfig(text_length=64)


def dense(module, q, k, v, mask, scaling, **kwargs):
    """cuDNN's; whole prompts alone, as its causal mask begins at the first key."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def balanced(module, q, k, v, mask, scaling, **kwargs):
    return kernels.psa_fwd(q, k, v, Plan.of(CONFIG, scaling, heads_last=True))[0], None


def model_of(layers: int):
    """The text model on the GPU, in bfloat16."""
    AttentionInterface.register("bench_dense", dense)
    AttentionInterface.register("bench_balanced", balanced)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(num_hidden_layers=layers, **SHAPE)).eval()
    torch.set_default_dtype(torch.float32)
    return model


def bench(model, length: int, chunk: int, attention: str) -> dict:
    """One row."""
    model.set_attn_implementation(f"bench_{attention}")
    embeddings = torch.randn(1, length, SHAPE["hidden_size"], device="cuda", dtype=torch.bfloat16)
    for _ in range(2):  # the first one compiles
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held, cache = torch.cuda.memory_allocated(), None
        for start in range(0, length, chunk or length):
            part = embeddings[:, start : start + (chunk or length)]
            cache = model(inputs_embeds=part, past_key_values=cache, use_cache=True).past_key_values
        peak = torch.cuda.max_memory_allocated() - held
        kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        del cache, part
    row = dict(layers=len(model.layers), L=length, chunk=chunk, attention=attention)
    return row | dict(peak_mib=peak / 2**20, cache_mib=kept / 2**20, activations_mib=(peak - kept) / 2**20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16384, 65536, 131072])
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 8192], help="0: the whole prompt")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    found, rows = facts(gpu_name(), "torch", "triton", "transformers"), []
    print(machine_line(found))
    print(header(FIELDS))
    with torch.inference_mode():
        model = model_of(args.layers)
        for length in args.lengths:
            for chunk in args.chunks:
                for attention in ("balanced",) if chunk else ("dense", "balanced"):
                    rows.append(bench(model, length, chunk, attention))
                    print(line(rows[-1][f] for f in FIELDS), flush=True)
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
