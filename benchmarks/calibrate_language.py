"""Budgets for a language model that language_model.py trained, as calibrate_psa.py makes them for Qwen2.5-VL (torch).

    python benchmarks/calibrate_language.py lm.pt held.pt --out budgets.json [--preset balanced] [--density 0.12]
    python benchmarks/bench_language.py lm.pt held.pt --lengths 32768 --settings balanced --budgets budgets.json

Every layer, and every head, is made sparse alone at a few shares on the last documents held out, which
bench_language.py does not read at its default --files; KL(dense || sparse) of the next-token distributions says what
each is worth, and ``budget_solver.share_out`` gives the shares that lose least in sum. Prints what equal shares and the
budgets cost there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from language_measure import Bench
from language_model import load
from language_settings import Setting, everywhere
from language_tasks import choose_texts
from tokenizers import Tokenizer

from psa_paddle.budget_solver import EVERYTHING, density_of, factor_for, least_density, scaled, share_out
from psa_paddle.budgets import Budgets
from psa_paddle.config import DEFAULT_PRESET, AttentionConfig


def shares_around(target: float, least: float) -> list[float]:
    """Three shares to measure at: below, at and above the target, within what is possible."""
    return [max(target / 2, least + (target - least) / 4), target, min(2 * target, (1 + target) / 2)]


def measure(bench: Bench, config: AttentionConfig, shares: list[float], lengths) -> dict:
    """``share_out``'s curves: every layer alone at all shares, every head alone at the first and the last."""
    layers, heads = bench.model.shape.layers, bench.model.shape.heads

    def cost(layer: int, share: float, alone) -> float:
        factor = factor_for(config, share, lengths)
        own = config.replace(budgets=tuple(factor if head in alone else EVERYTHING for head in range(heads)))
        return bench.divergence(Setting("", "", lambda n: own if n == layer else "dense"))

    ends = [shares[0], shares[-1]]
    return {
        "shares": shares,
        "layers": [[cost(layer, share, range(heads)) for share in shares] for layer in range(layers)],
        "head_shares": ends,
        "heads": {
            str(layer): [[cost(layer, share, (head,)) for share in ends] for head in range(heads)]
            for layer in range(layers)
        },
    }


def calibrate(bench: Bench, config: AttentionConfig, density: float | None, name: str) -> Budgets:
    """Budgets for a density, by default the configuration's own at the bench's length.

    Raises:
        ValueError: shares that do not go by rank, or a density that is out of reach.
    """
    lengths, heads = [(bench.length, 0)], bench.model.shape.heads
    target = density_of(config, lengths) if density is None else density
    plain = config.replace(block_means=False)
    least = 1.001 * least_density(plain, lengths)
    if not least < target < 1:
        raise ValueError(f"a density of {target:.3g} is out of reach at this length: it is above {least:.3g}, below 1.")
    even = scaled(plain, factor_for(plain, target, lengths))
    curves = measure(bench, even, shares_around(target, least), lengths)
    shares = share_out(curves, heads, target, least)
    factors = [[factor_for(even, share, lengths) for share in row] for row in shares.tolist()]
    found = Budgets(
        model=name, config=even, factors=factors, block_means=(False,) * len(factors), curves=curves,
        target={"density": round(target, 4)},
    )  # fmt: skip
    for what, setting in (("equal shares", everywhere("", "", even)), ("budgets", Setting("", "", found.config_of))):
        print(f"{what}: density {bench.density(setting):.4f}, KL {bench.divergence(setting):.5f} nats a token")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="language_model.py's --out")
    parser.add_argument("held", type=Path, help="language_model.py's --held")
    parser.add_argument("--out", type=Path, required=True, help="the budgets file")
    parser.add_argument("--preset", default=DEFAULT_PRESET, help="whose estimate and shares by rank (balanced)")
    parser.add_argument("--density", type=float, help="to share out (the preset's)")
    parser.add_argument("--length", type=int, default=32768, help="tokens (32768)")
    parser.add_argument("--files", type=int, default=2, help="documents, the last ones (2)")
    args = parser.parse_args()
    for path in (args.model, args.held):
        if not path.is_file():
            parser.error(f"there is no file '{path}'.")
    if not args.out.resolve().parent.is_dir():
        parser.error(f"the folder of '{args.out}' does not exist; make it first.")
    cuda = torch.cuda.is_available()
    torch.set_float32_matmul_precision("high")
    try:
        config = AttentionConfig.preset(args.preset)
        model, saved = load(args.model, "cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
        texts = choose_texts(torch.load(args.held, weights_only=True)[::-1], args.length, args.files)
        bench = Bench(model, Tokenizer.from_str(saved["tokenizer"]), texts, args.length, prompts=0)
        calibrate(bench, config, args.density, args.model.name).save(args.out)
    except ValueError as error:
        sys.exit(f"calibrate_language.py: {error}")


if __name__ == "__main__":
    main()
