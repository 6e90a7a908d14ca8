"""What sparse attention costs on real text: a language model's loss, copies and retrieval, on one GPU with torch.

    python benchmarks/language_model.py --seconds 520 --out lm.pt --held held.pt          # trains the model
    python benchmarks/bench_language.py lm.pt held.pt --out rows.json                     # every setting, 8k to 64k
    python benchmarks/bench_language.py lm.pt held.pt --lengths 32768 --settings balanced "*-level1" \\
        --config 'fast32={"preset": "fast", "key_block": 32}' \\
        --config '{"mask_mode": "topk", "mask_ratios": {"1": [0, 0.1], "0": [0.1, 1]}}'

The model reads documents that it never saw, once densely and once with every setting in all layers, whatever the
length (``dense_below`` 0). Columns, over positions 4,096 and up:

density    share of the dense attention work, mean over layers and files: block pairs by 1 / level, forced blocks and
           means included, the estimate of importance not; TriangleMix: visible pairs
loss       next-token loss over dense attention's, in nats, with its standard error over files
worse      % of the tokens that are worse by more than 1 nat
KL         KL(dense || sparse) of the next-token distributions, nats a token, with its standard error over files. Less
           noisy than the loss. Beyond the context that the model was trained on (16,384) dense attention itself gets
           worse, and skipping far keys can even lower the loss: there KL still says how far the answers moved
copies     loss over dense on long-range copies: tokens whose continuation last stood 4,096 or more tokens before
retrieval  % of the tokens of planted values that are the likeliest ones. Lines "The code of <word> is <number>." are
           planted at random places, and the words are asked for at the end, where the question's rows are at level 1
           (``text_length``) as in real use; all else runs with ``text_length`` 0

Settings (--list): every block kept, which shows what rounding alone costs; every preset (``seed`` is the seeds' rule);
level 1 only at its density where a preset has means or pools; block means where it has none; TriangleMix in all layers;
and ``mix``: TriangleMix in the half of the layers where it alone moves the answers least on a text that is not
measured otherwise, and the default preset in the others. Needs torch, Triton and tokenizers, no Paddle. Without a GPU,
TRITON_INTERPRET=1 (and NumPy below 2.4) runs a --tiny model at --lengths 512, as a smoke test.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

from common import commit, header
from language_settings import Setting, budget_setting, choose, parse_config, settings, with_triangle
from language_tasks import choose_texts

COLUMNS = ("tokens", "setting", "density", "loss", "worse", "KL", "copies", "retrieval")


def table_line(row: dict) -> str:
    """One row of the Markdown table."""

    def percent(value) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    def error(value) -> str:
        return "" if value is None else f" ± {value:.4f}"

    return "| " + " | ".join([
        f"{row['length']}", row["setting"], f"{row['density']:.3f}", f"{row['loss']:+.4f}{error(row['loss_error'])}",
        f"{100 * row['worse']:.2f}", f"{row['kl']:.4f}{error(row['kl_error'])}",
        "-" if row["copies"] is None else f"{row['copies']:+.4f}", percent(row["retrieval"]),
    ]) + " |"  # fmt: skip


def dense_line(row: dict) -> str:
    """Dense attention's own loss and retrieval, from any row of that length."""
    found = "-" if row["dense_retrieval"] is None else f"{100 * row['dense_retrieval']:.1f}"
    return f"| {row['length']} | dense | 1.000 | {row['dense_loss']:.4f} | | | | {found} |"


def write_json(path: Path | None, rows: list[dict]) -> None:
    """All rows so far; the whole file or none."""
    if path is not None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        part.replace(path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="language_model.py's --out")
    parser.add_argument("held", type=Path, nargs="?", help="language_model.py's --held")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768, 65536])
    parser.add_argument("--files", type=int, default=8, help="documents held out (8)")
    parser.add_argument("--prompts", type=int, default=2, help="for retrieval, of each file and length (2)")
    parser.add_argument("--settings", nargs="*", default=["*"], help='names, or patterns such as "balanced*" (all)')
    parser.add_argument("--config", action="append", default=[], metavar="[NAME=]JSON",
                        help='one more setting: the fields of AttentionConfig that differ from its "preset" '
                             "(balanced), or a list of such objects, one for each layer")  # fmt: skip
    parser.add_argument(
        "--budgets", type=Path, nargs="+", default=[], help="calibrate_language.py's files, as settings"
    )
    parser.add_argument("--mix-layers", type=int, nargs="+", help="of mix, in place of those found by measuring")
    parser.add_argument("--seed", type=int, default=0, help="of the planted lines")
    parser.add_argument("--out", type=Path, help="also write the rows there, as JSON")
    parser.add_argument("--list", action="store_true", help="only print the settings")
    args = parser.parse_args()
    if args.list:
        return args
    for path in (args.model, args.held):
        if path is None or not path.is_file():
            parser.error("model and held are needed." if path is None else f"there is no file '{path}'.")
    if args.out is not None and not args.out.resolve().parent.is_dir():
        parser.error(f"the folder of '{args.out}' does not exist; make it first.")
    if min(args.files, *args.lengths) < 1 or args.prompts < 0:
        parser.error("--files and --lengths must be at least 1, and --prompts not negative.")
    return args


def layers_for_mix(bench, layers: int) -> list[int]:
    """The half of the layers in which TriangleMix's pattern alone moves the next-token distribution least."""
    moved = [bench.divergence(with_triangle("", "", [layer], "dense")) for layer in range(layers)]
    return sorted(sorted(range(layers), key=moved.__getitem__)[: layers // 2])


def run(args) -> None:
    import torch
    import triton
    from language_measure import Bench
    from language_model import load
    from tokenizers import Tokenizer

    cuda = torch.cuda.is_available()
    if not cuda and not triton.knobs.runtime.interpret:
        raise ValueError("the kernels need a CUDA GPU; TRITON_INTERPRET=1 runs a tiny model on a CPU.")
    torch.set_float32_matmul_precision("high")  # logits: exact products of bfloat16, sums in float32
    model, saved = load(args.model, "cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
    tokenizer, layers = Tokenizer.from_str(saved["tokenizer"]), model.shape.layers
    held = torch.load(args.held, weights_only=True)
    free = [parse_config(text, layers) for text in args.config]
    free += [budget_setting(file, layers, model.shape.heads) for file in args.budgets]
    texts = {length: choose_texts(held, length, args.files) for length in args.lengths}
    chosen = choose(settings(), args.settings) if args.settings else []
    mix = args.mix_layers or []
    if not all(0 <= layer < layers for layer in mix):
        raise ValueError(f"--mix-layers must name layers from 0 to {layers - 1}, got {', '.join(map(str, mix))}.")
    if not mix and any(s.name == "mix" for s in chosen):
        mix = layers_for_mix(Bench(model, tokenizer, held[-1:], min(args.lengths), prompts=0), layers)
    rows_of: list[Setting] = (choose(settings(mix), args.settings) if args.settings else []) + free

    facts = {
        "model": args.model.name, "corpus": args.held.name, "training": saved.get("training"),
        "device": torch.cuda.get_device_name() if cuda else "CPU, interpreter", "torch": torch.__version__,
        "triton": triton.__version__, "python": platform.python_version(), "commit": commit(),
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value is not None), end="")
    print(f", {args.files} files; mix: TriangleMix in layers {', '.join(map(str, mix)) or '-'}\n")
    print(header(COLUMNS))
    rows: list[dict] = []
    for length, own in texts.items():
        bench = Bench(model, tokenizer, own, length, args.prompts, args.seed)
        for n, setting in enumerate(rows_of):
            row = {**facts, **bench.row(setting)}
            rows.append(row)
            print(*([dense_line(row)] if n == 0 else []), table_line(row), sep="\n", flush=True)
        write_json(args.out, rows)


def main() -> None:
    args = parse_arguments()
    if args.list:
        for setting in settings():
            print(f"{setting.name:18s} {setting.about}")
        return
    try:
        run(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"bench_language.py: {error}")


if __name__ == "__main__":
    main()
