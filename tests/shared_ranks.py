"""What two processes need to be ranks of one model on a CPU, and what they run: python shared_ranks.py FOLDER."""

import ctypes
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import paddle
from paddle.distributed import collective
from paddle.distributed.fleet.layers.mpu import mp_ops
from shared_demo import ROOT, SPARSE

from psa_paddle.budgets import Budgets
from psa_paddle.integrations.language import choice, team
from psa_paddle.integrations.language.answering.sampling import Sampling
from psa_paddle.integrations.language.attention import replace_attention, restore_attention
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.paddleformers.pruner import video_tokens_in
from psa_paddle.integrations.language.plugs import plug_of
from psa_paddle.report import recording
from psa_paddle.trianglemix import TriangleMixConfig
from psa_paddle.utils.media import Clip

NEW, LAYERS, HEADS = 8, 6, 4
LEVELS = {**SPARSE.mask_ratios, 1: (0.0, 0.3), 4: (0.3, 0.5)}
CONFIG = SPARSE.replace(mask_mode="topk", mask_ratios=LEVELS, audit_rows=16)
FACTORS = tuple(tuple(0.4 + 0.3 * ((layer + head) % HEADS) for head in range(HEADS)) for layer in range(LAYERS))
BUDGETS = Budgets("demo", CONFIG, FACTORS, (False,) * LAYERS)
TRIANGLE = TriangleMixConfig(num_sink_tokens=4, sliding_window_size=64, num_last_tokens=32, triangle_layer_indices=[1])
TEXT = [{"role": "user", "content": "a red circle moves left and a green square moves up " * 60}]


def _summed(tensor, group=None, **_):
    paddle.distributed.all_reduce(tensor, group=group)
    return tensor


def _concatenated(tensor, group=None):
    parts: list = []
    paddle.distributed.all_gather(parts, tensor.contiguous(), group=group)
    return paddle.concat(parts, -1)


def use_gloo() -> None:
    """Put what gloo can do in the place of what Paddle does on GPUs: in this process, for good."""
    team.check_device = lambda: None
    paddle.Tensor.cuda = lambda tensor, *_: tensor  # weights are sent as GPU tensors
    mp_ops._mp_allreduce = _summed
    mp_ops._c_identity = collective._c_identity = lambda tensor, group=None, **_: tensor
    collective._c_concat = _concatenated


def clip() -> Clip:
    """Twelve frames of noise."""
    frames = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3)).repeat(28, 1).repeat(28, 2).astype(np.uint8)
    return Clip(frames, 2.0)


def size_of(layer) -> int:
    """How many numbers the weights of a layer are."""
    return sum(math.prod(weight.shape) for weight in layer.parameters())


def said(model: QwenVLInference, session) -> dict:
    """An answer's tokens and statistics."""
    stats, plug = model.stats(), plug_of(model.model)
    densities = [] if plug is None else [call.per_head_density() for _, call in plug.calls]
    return {"ids": session.ids, "stats": stats, "densities": densities}


def ask_all(model: QwenVLInference) -> dict:
    """Dense attention, half of a clip's tokens, PSA with budgets and audits by head, TriangleMix in chunks, drawing."""
    found = {}
    question = [{"type": "video", "video": clip()}, {"type": "text", "text": "Describe this video."}]
    session = model.session()
    session.ask(question, NEW)
    session.ask("How many?", NEW)
    found["dense"] = said(model, session)
    with video_tokens_in(model.model, 0.5):
        session = model.session()
        session.ask(question, NEW)
    found["fewer tokens"] = said(model, session)
    replace_attention(model, AttentionChoice("psa", CONFIG, budgets=BUDGETS))
    session = model.session()
    with recording(model, [0, 5]) as record:
        session.ask(question, NEW, streamer=record)
    found["psa"] = said(model, session)
    found["record"] = {
        "heads": record.heads(),
        "mass": {layer: mass.tolist() for layer, mass in record.mass.items()},
        "shares": {layer: [part.shares for part in parts] for layer, parts in record.maps.items()},
        "map_heads": {layer: [part.per_head_density for part in parts] for layer, parts in record.maps.items()},
    }
    replace_attention(model, AttentionChoice("mix", CONFIG, TRIANGLE))
    model.prefill_chunk, session = 384, model.session()
    with mock.patch.object(choice, "DENSE_UP_TO", 256):  # which would cost every test more keys
        session.chat(TEXT, NEW)
    found["mix"] = said(model, session)
    model.prefill_chunk, before = None, model.sampling
    restore_attention(model)
    two = [TEXT[0] | {"content": words} for words in ("What is this?", "A longer question than the other one.")]
    model.sampling = Sampling(temperature=3.0, top_p=1.0, top_k=0, seed=3)
    found["seed"] = model.inference_batch([two[:1], two[1:]], NEW)
    model.sampling = Sampling(temperature=3.0, top_p=1.0, top_k=0)
    found["no seed"] = model.inference_batch([two[:1], two[1:]], NEW)
    model.sampling = before
    return found


def ask_by_command(folder: Path, rank: int) -> None:
    """``psa-paddle ask`` with a file that only rank 1 cannot read."""
    from psa_paddle.cli import ask_requests, main

    read = ask_requests.load_image

    def load_image(source, **_):
        if rank == 1 and source == "here.jpg":
            raise ValueError("it is damaged.")
        return read(ROOT / "demo" / "sample.jpg")

    ask_requests.load_image = load_image
    lines = [{"input": name, "prompt": "What is this?", "max_tokens": 4} for name in ("here.jpg", "there.jpg")]
    requests = folder / f"requests{rank}.jsonl"
    requests.write_text("".join(json.dumps(said) + "\n" for said in lines))
    files = f"--requests {requests} --output {folder}/answers{rank}.jsonl"
    command = f"ask --model demo --use-psa --tensor-parallel 2 {files}"
    print("status", main(command.split()), file=sys.stderr)


class Death:
    """A streamer with which rank 1 is killed, while rank 0 hangs as in a collective of NCCL's, that no signal but
    SIGKILL ends: on gloo it would hear that the connection is gone."""

    def __init__(self, folder: Path, rank: int):
        self.folder, self.rank, self.steps = folder, rank, 0

    def put(self, _):
        self.steps += 1
        if self.steps == 3 and self.rank == 1:
            (self.folder / "died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 3:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the command has it
            lock = ctypes.create_string_buffer(64)
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(lock)

    def end(self):
        """Never reached."""


def run(folder: Path) -> None:
    """What a rank does."""
    use_gloo()
    model = QwenVLInference("demo", tensor_parallel=2)
    tower = model.family.layouts["paddleformers"].tower_of(model.model)
    sizes = {"weights": size_of(model.model), "tower": size_of(tower)}
    if model.team.rank == 1:  # a GPU that rounds otherwise, and more than that
        tower.register_forward_post_hook(lambda layer, given, made: made + 0.3 * paddle.randn(made.shape))
    found = {**ask_all(model), **sizes}
    (folder / f"rank{model.team.rank}.json").write_text(json.dumps(found))
    ask_by_command(folder, model.team.rank)
    model.session().ask("What?", 1000, streamer=Death(folder, model.team.rank))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
