"""Train the demo model: a very small Qwen2.5-VL that answers questions about the visual world of demo/world.

    python demo/train.py                       # writes demo/checkpoint and demo/training_log.txt; one GPU, bfloat16
    python demo/train.py --seed 3 --out again --log again.txt
    python demo/train.py --start demo/checkpoint --mix image=0.7 short=0.3 --ask motion=4 --tokens 4096 --out more

The last one goes on from a checkpoint, which a CPU can do, too.

A curriculum from images to clips of 8k vision tokens, with several questions about every clip. At the end the weights
are rounded to bfloat16 and the table is measured on the test split, which shares no layout and no number of frames
with training. Needs torch, transformers 5, tokenizers, safetensors and Pillow; from nothing also a GPU.
"""

import argparse
import math
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from batched_qwen import NAME, check, question_states
from evaluate import accuracy_table, evaluate
from model_files import config_of, new_model, read_weights, write_checkpoint
from world import IMAGE_TYPES, VIDEO_TYPES
from world.render import draw
from world_batches import BUCKETS, CHECKPOINT, FPS, PREFIX, clip_shape, encode, make_batch, tokenizer

# Until each share of the steps: how often each bucket is drawn.
CURRICULUM = (
    (0.12, {"image": 0.6, "short": 0.4}),
    (0.35, {"image": 0.25, "short": 0.35, "1k": 0.25, "2k": 0.15}),
    (1.0, {"image": 0.2, "short": 0.2, "1k": 0.15, "2k": 0.12, "4k": 0.15, "8k": 0.18}),
)
QUESTIONS = {"image": 6, "short": 8}  # about each clip
QUESTIONS_LONG = 16
# Learned last, so asked more often.
ASKED = {"position": 2.0, "relation": 3.0, "number": 2.0, "motion": 3.0, "time": 2.0, "caption": 4.0}
MOST_CLIPS = 320  # in a step
WARMUP = 0.03  # of the steps
LAST_LR = 0.03  # of the highest


class Steps(torch.utils.data.Dataset):
    """Item i: the bucket and the batch of step i, which depend on the seed and on i alone."""

    def __init__(self, args):
        self.seed, self.steps, self.tokens, self.asked = args.seed, args.steps, args.tokens, args.ask
        total = sum(args.mix.values())
        self.curriculum = ((1.0, {b: x / total for b, x in args.mix.items()}),) if args.mix else CURRICULUM

    def __len__(self):
        return self.steps

    def __getitem__(self, step: int):
        rng = np.random.default_rng([self.seed, step])
        mix = next(mix for until, mix in self.curriculum if step < until * self.steps)
        bucket = str(rng.choice(list(mix), p=list(mix.values())))
        shape = clip_shape(bucket, rng, test=False)
        tokens = shape[0] * shape[1] // 28**2 * max(1, shape[2] // 2)
        clips = max(1, min(MOST_CLIPS, self.tokens // tokens))
        indices = (self.seed * self.steps + step) * MOST_CLIPS + np.arange(clips)
        fps = rng.choice(FPS, clips)
        questions = QUESTIONS.get(bucket, QUESTIONS_LONG)
        return bucket, make_batch("train", indices, shape, fps, questions, rng, weights=self.asked)


def answer_loss(model, batch, prefix_ids):
    """Cross-entropy of the answers: mean over the questions, each weighted by the root of its length."""
    device = prefix_ids.device
    ids, answer = (torch.from_numpy(x).to(device) for x in (batch.ids, batch.answer))
    states = question_states(model, draw(batch.plan, device), prefix_ids, ids, torch.from_numpy(batch.step))
    target = answer[..., 1:]
    logits = model.lm_head(states[..., :-1, :][target]).float()
    losses = F.cross_entropy(logits, ids[..., 1:][target], reduction="none")
    weight = answer.sum(-1, keepdim=True).expand_as(answer)[..., 1:][target].float().rsqrt()
    return (losses * weight).sum() / weight.sum()


class Optimisers:
    """Muon (orthogonalised momentum) for the layers' matrices, AdamW for everything else, at one learning rate."""

    def __init__(self, model, lr: float):
        matrices, rest = [], []
        for name, p in model.named_parameters():
            inner = p.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
            (matrices if inner else rest).append(p)
        self._both = (
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        )

    def step(self, lr: float) -> None:
        """Take one step at a learning rate, and drop the gradients."""
        for one in self._both:
            for group in one.param_groups:
                group["lr"] = lr
            one.step()
            one.zero_grad(set_to_none=True)


class Shares(argparse.Action):
    """``image=0.7 short=0.3`` -> {"image": 0.7, "short": 0.3}."""

    def __init__(self, *args, names, **kwargs):
        super().__init__(*args, **kwargs)
        self.names = names

    def __call__(self, parser, namespace, values, option_string=None):
        found = {}
        for value in values:
            name, _, number = value.partition("=")
            try:
                found[name] = float(number)
            except ValueError:
                parser.error(f"{option_string} takes name=number, got {value!r}.")
            if name not in self.names or not found[name] > 0:
                parser.error(
                    f"{option_string} {value}: use one of {', '.join(sorted(self.names))} and a number above 0."
                )
        setattr(namespace, self.dest, found)


def lr_share(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to LAST_LR."""
    if step < WARMUP * steps:
        return (step + 1) / (WARMUP * steps)
    part = (step - WARMUP * steps) / (steps - WARMUP * steps)
    return LAST_LR + (1 - LAST_LR) * (1 + math.cos(math.pi * part)) / 2


def train(model, args, log):
    """Run all steps; ``log`` takes lines."""
    device = model.device
    prefix_ids = torch.tensor(encode(PREFIX), device=device)
    optimisers = Optimisers(model, args.lr)
    loader = torch.utils.data.DataLoader(Steps(args), batch_size=None, num_workers=args.workers, prefetch_factor=4)
    on_gpu = device.type == "cuda"
    for block in (*model.model.visual.blocks, *model.model.language_model.layers) if on_gpu else ():
        for part in block.children():
            if not hasattr(part, "scaling"):  # norms and MLPs fuse well; attention sees too many shapes
                part.compile(dynamic=True)
    start, recent = time.time(), {}
    for step, (bucket, batch) in enumerate(loader):
        with torch.autocast(device.type, torch.bfloat16):
            loss = answer_loss(model, batch, prefix_ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimisers.step(args.lr * lr_share(step, args.steps))
        recent.setdefault(bucket, []).append(loss.detach())
        if (step + 1) % args.report == 0 or step + 1 == args.steps:
            losses = {b: float(torch.stack(recent[b]).mean()) for b in BUCKETS if b in recent}
            if not all(map(math.isfinite, losses.values())):
                raise RuntimeError(f"the loss is not finite at step {step + 1}: {losses}")
            log(f"step {step + 1:6d}  {time.time() - start:6.0f} s  "
                + "  ".join(f"{b} {x:.4f}" for b, x in losses.items()))  # fmt: skip
            recent = {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="folder of the checkpoint")
    parser.add_argument("--log", type=Path, default=Path(__file__).parent / "training_log.txt")
    parser.add_argument("--start", type=Path, help="folder of a checkpoint to go on from; none: fresh weights")
    parser.add_argument("--mix", nargs="+", default={}, action=Shares, names=BUCKETS,
                        help="how often to draw each length, as name=share, in place of the curriculum")  # fmt: skip
    parser.add_argument("--ask", nargs="+", default=ASKED, action=Shares, names={*IMAGE_TYPES, *VIDEO_TYPES},
                        help="how much more often to ask some kinds of question, as name=weight")  # fmt: skip
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--tokens", type=int, default=65536, help="most vision tokens in a step")
    parser.add_argument("--workers", type=int, default=14, help="processes that make batches")
    parser.add_argument("--report", type=int, default=100, help="steps from one line of the log to the next")
    parser.add_argument("--test-clips", type=int, default=200, help="clips of each length in the final table")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.start is None and device == "cpu":
        sys.exit("error: training from nothing needs a CUDA GPU; on a CPU go on from a checkpoint with --start.")
    if args.start is not None and not (args.start / "model.safetensors").is_file():
        sys.exit(f"error: --start {args.start} has no model.safetensors; give the folder of a checkpoint.")
    torch.manual_seed(args.seed)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every one of hundreds of shapes
    config = config_of(tokenizer())
    model = new_model(config)
    if args.start is not None:
        read_weights(args.start, model)
    model.to(device)
    model.model.language_model.config._attn_implementation = NAME
    with args.log.open("w", encoding="utf-8") as file:

        def log(line):
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()

        machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        log(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, "
            f"Python {platform.python_version()}; {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; "
            f"{ {name: getattr(value, 'name', value) for name, value in vars(args).items()} }")  # fmt: skip
        probe = torch.tensor([[encode("Describe this video.")] * 2], device=device)
        difference = check(model, torch.tensor(encode(PREFIX), device=device), probe)
        log(f"relative difference of the batched forward from transformers' own: {difference:.2g}")
        if difference > 1e-3:  # the library's convolution runs in TF32
            raise RuntimeError("the batched forward is not transformers'")
        began = time.time()
        train(model, args, log)
        size = write_checkpoint(args.out, config, model)
        log(f"trained in {(time.time() - began) / 60:.1f} minutes; weights {size / 1e6:.1f} MB")
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().float()
        log(accuracy_table(evaluate(model, "test", args.test_clips, args.tokens)))


if __name__ == "__main__":
    main()
