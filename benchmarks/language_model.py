"""A small language model trained on real text, whose attention heads nobody designed (torch, one GPU).

    python benchmarks/language_model.py --seconds 520 --out lm.pt --held held.pt --seed 0
    python benchmarks/language_model.py --seconds 520 --out docs.pt --held docs_held.pt --corpus FOLDER --glob "**/*"
    python benchmarks/language_model.py --seconds 60 --tiny --out lm.pt --held held.pt --corpus benchmarks  # any CPU

Corpus: the Python sources of this machine (standard library and installed packages), or every text file of --corpus
that matches --glob. The second corpus of benchmarks/RESULTS.md is documentation: a folder with the text of about 90 of
Debian's -doc packages, 214 MB of Sphinx sources and of HTML turned into text. Neighbouring files of a folder are
joined to documents of 400,000 characters; up to twelve documents of more than 66,000 tokens are held out.

Shape: as Qwen2's, 10 layers, width 1024, 8 query and 2 kv heads of 128, biases on q, k and v, RoPE theta 1e6, tied
embeddings, 129 M parameters. Context 4,096 for the first half of the time, 16,384 for the second. --seconds is of
everything, reading and tokenising included; on an H200 520 seconds give a loss of about 1.6 on Python sources.

--out: {"state": bfloat16 weights, "shape": fields of ``Shape``, "tokenizer": its JSON, "training": how it was made};
--held: a list of int32 tensors, the tokens of each document held out.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import language_corpus as corpus
import torch
import torch.nn.functional as F
from torch import nn

LOGITS = 8192  # tokens whose logits are in memory at once
PEAK, LAST_RATE, WARMUP, FALL = 1e-3, 0.03, 100, 0.3  # learning rate; its last share, steps up, share at which it falls


@dataclass
class Shape:
    vocab: int = 16384
    width: int = 1024
    layers: int = 10
    heads: int = 8
    kv_heads: int = 2
    dim: int = 128
    hidden: int = 2816
    theta: float = 1e6


@dataclass(frozen=True)
class Recipe:
    """shape; phases: (share of the time at which it ends, context, batch); held: tokens of a document held out, at
    least; megabytes of text, at most."""

    shape: Shape
    phases: tuple[tuple[float, int, int], ...]
    held: int
    megabytes: float


FULL = Recipe(Shape(), ((0.5, 4096, 24), (1.0, 16384, 6)), 66_000, 320)
TINY = Recipe(Shape(1024, 64, 2, 4, 2, 32, 128), ((1.0, 256, 2),), 3000, 3)


def dense(q, k, v):
    """Causal attention of q [B, H, L, D] over k, v [B, Hkv, L, D] -> [B, H, L, D]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def rope(length: int, dim: int, theta: float, device):
    """Cosines and sines of the rotary positions 0 to length - 1, float32 [L, D / 2] each."""
    rates = theta ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x, rotary):
    """x [B, H, L, D] with its two halves turned against each other."""
    cos, sin = (part.to(x.dtype) for part in rotary)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Layer(nn.Module):
    """Attention and a gated MLP, each after an RMS norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.dim, self.sizes = shape.dim, [n * shape.dim for n in (shape.heads, shape.kv_heads, shape.kv_heads)]
        self.norm1 = nn.RMSNorm(shape.width, eps=1e-6)
        self.norm2 = nn.RMSNorm(shape.width, eps=1e-6)
        self.qkv = nn.Linear(shape.width, sum(self.sizes))
        self.out = nn.Linear(self.sizes[0], shape.width, bias=False)
        self.up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x, rotary, attend):
        parts = self.qkv(self.norm1(x)).split(self.sizes, -1)
        q, k, v = (part.unflatten(-1, (-1, self.dim)).transpose(1, 2) for part in parts)
        x = x + self.out(attend(rotate(q, rotary), rotate(k, rotary), v).transpose(1, 2).flatten(2))
        gate, value = self.up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * value)


class LanguageModel(nn.Module):
    """The decoder; its output embedding is the input's."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:  # what is added to the residual stream starts smaller
                added = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if added else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids, attention=dense):
        """ids [B, L] -> the last hidden states [B, L, width]; attention: ``dense``'s like, or a list of one a layer."""
        each = attention if isinstance(attention, list) else [attention] * len(self.layers)
        x, rotary = self.embed(ids), rope(ids.shape[1], self.shape.dim, self.shape.theta, ids.device)
        for layer, attend in zip(self.layers, each, strict=True):
            x = layer(x, rotary, attend)
        return self.norm(x)

    def loss(self, ids):
        """ids [B, L + 1] -> mean loss of the next tokens, in nats."""
        states, targets = self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()
        total = 0.0
        for part, wanted in zip(states.split(LOGITS), targets.split(LOGITS), strict=True):
            logits = part @ self.embed.weight.to(part.dtype).T
            total = total + F.cross_entropy(logits.float(), wanted, reduction="sum")
        return total / targets.numel()


def load(path, device, dtype=torch.bfloat16):
    """``(model, what else was saved)`` of a file that this script wrote, ready for inference."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = LanguageModel(Shape(**saved["shape"]))
    model.load_state_dict(saved.pop("state"))
    return model.to(device, dtype).eval().requires_grad_(False), saved


def rate(step: int, share: float) -> float:
    """Learning rate: a linear rise over the first steps, even, then a linear fall over the rest of the time."""
    fall = 1.0 if share < FALL else max(LAST_RATE, 1 - (share - FALL) / (1 - FALL))
    return PEAK * min(1.0, (step + 1) / WARMUP) * fall


def optimizer_of(model):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=matrices[0].is_cuda)


def train(recipe: Recipe, data, device: str, seconds: float, seed: int):
    """``(model, steps, last losses' mean)``; data: int32 [tokens]."""
    torch.manual_seed(seed)
    places, data = torch.Generator().manual_seed(seed), data.to(device)
    model = LanguageModel(recipe.shape).to(device)
    optimizer = optimizer_of(model)
    loss_of = torch.compile(model.loss, dynamic=False) if device == "cuda" else model.loss
    begin, step, losses = time.time(), 0, []
    while (share := (time.time() - begin) / seconds) < 1:
        context, batch = next((c, b) for end, c, b in recipe.phases if share < end)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, share)
        first = torch.randint(len(data) - context, (batch,), generator=places).tolist()
        ids = torch.stack([data[i : i + context + 1] for i in first]).long()
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        losses = [*losses[-49:], loss.detach()]
        if step % 50 == 0 or step < 3:
            spent = time.time() - begin
            print(f"step {step}, context {context}, loss {losses[-1].item():.3f}, {spent:.0f} s", flush=True)
    return model, step, float(torch.stack(losses).mean()) if losses else math.nan


def save(path: Path, what) -> None:
    """Write the whole file or none."""
    part = path.with_name(path.name + ".part")
    torch.save(what, part)
    part.replace(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="of everything")
    parser.add_argument("--out", type=Path, required=True, help="the model")
    parser.add_argument("--held", type=Path, required=True, help="the tokens held out")
    parser.add_argument("--corpus", type=Path, nargs="+", help="folders (this machine's Python sources)")
    parser.add_argument("--glob", default="**/*.py", help="of the files in them (**/*.py)")
    parser.add_argument("--megabytes", type=float, help="of text at most (320)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="two layers and a short context, to try the path")
    args = parser.parse_args()
    for path in (args.out, args.held):
        if not path.resolve().parent.is_dir():
            parser.error(f"the folder of '{path}' does not exist; make it first.")
    if args.seconds <= 0:
        parser.error(f"--seconds must be positive, got {args.seconds:g}.")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("training the full model needs a CUDA GPU; --tiny runs anywhere.")
    return args


def main() -> None:
    args, begin = arguments(), time.time()
    recipe, device = TINY if args.tiny else FULL, "cuda" if torch.cuda.is_available() else "cpu"
    try:
        texts = corpus.documents(args.corpus or corpus.python_folders(), args.glob, args.megabytes or recipe.megabytes)
        ids, tokenizer = corpus.tokenize(texts, recipe.shape.vocab)
        held = corpus.choose_held([len(x) for x in ids], recipe.held)
    except ValueError as error:
        sys.exit(f"language_model.py: {error}")
    data = torch.cat([torch.tensor(x, dtype=torch.int32) for n, x in enumerate(ids) if n not in held])
    held = [torch.tensor(ids[n], dtype=torch.int32) for n in held]
    spent = time.time() - begin
    print(f"{len(texts)} documents, {len(data):,} tokens, {len(held)} held out, {spent:.0f} s", flush=True)
    longest = max(context for _, context, _ in recipe.phases)
    if spent >= args.seconds or len(data) <= longest:
        sys.exit(
            f"language_model.py: nothing is left to train with: {spent:.0f} of {args.seconds:g} seconds went into "
            f"reading, and {len(data):,} tokens are there where {longest:,} are needed."
        )
    model, steps, loss = train(recipe, data, device, args.seconds - spent, args.seed)
    training = dict(seed=args.seed, seconds=args.seconds, steps=steps, loss=loss, tokens=len(data), glob=args.glob)
    state = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    save(args.held, held)
    shape = asdict(recipe.shape)
    save(args.out, dict(state=state, shape=shape, tokenizer=tokenizer.to_str(), training=training))
    print(f"saved '{args.out}' after {steps} steps, loss {loss:.3f}, {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
