"""From a video file to the first token of the answer, stage by stage, on Paddle.

    python benchmarks/bench_answer.py --csv answer.csv                     # demo/sample.mp4, 2k and 8k tokens
    python benchmarks/bench_answer.py --model Qwen/Qwen2.5-VL-7B-Instruct --video v.mp4 --fps 2

Stages: decode (reading the file, and scaling its frames), preprocess (frames cut into patches), vision (the tower),
prefill (the language model, and the first token). The model is loaded and has answered once. On a CPU they are
seconds of the process, as a machine may have other work; on a GPU of the clock. Medians; each row comes of a process
of its own, whose peak memory it has. share is that of the whole, in percent.

Settings are an attention, and after a comma the video tokens that stay. mkl is the number of the instructions that MKL
was told to take, see psa_paddle/utils/cpu.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from common import cpu_name, facts, header, line, machine_line, write_csv

SETTINGS = ("dense", "balanced", "balanced,0.5")
STAGES = ("decode", "preprocess", "vision", "prefill")
FIELDS = (
    "tokens", "prefilled", "setting", "first_token_s", *(f"{name}_s" for name in STAGES),
    *(f"{name}_share" for name in STAGES), "peak_mib", "mkl",
)  # fmt: skip
SAMPLE = Path(__file__).parents[1] / "demo" / "sample.mp4"
PROMPT = "Describe this video."


def load(model: str, setting: str):
    """The model as a setting has it."""
    from psa_paddle.integrations.inference import QwenVLInference

    attention, _, share = setting.partition(",")
    sparse = {} if attention == "dense" else {"use_psa": True, "psa_config": attention}
    if share:
        sparse["video_tokens"] = share if share == "auto" else float(share)
    return QwenVLInference(model, **sparse)


@contextmanager
def watched():
    """Yields the seconds that frames take to become patches; on a CPU, stages count the process's seconds inside."""
    import paddle

    from psa_paddle.integrations.language.answering import parts, reports

    clock = time.process_time if paddle.get_device() == "cpu" else time.perf_counter
    portions, reports_time, taken = parts.portions, reports.time, []

    def timed(*args):
        found = portions(*args)
        while True:
            start = clock()
            portion = next(found, None)
            taken.append(clock() - start)
            if portion is None:
                return
            yield portion

    class Clock:
        perf_counter = staticmethod(clock)

    parts.portions, reports.time = timed, Clock
    try:
        yield taken
    finally:
        parts.portions, reports.time = portions, reports_time


def measure(model: str, setting: str, video: str, fps: float, repeats: int) -> dict:
    """A row: medians of some answers after one more."""
    inference, found = load(model, setting), []
    with watched() as preprocess:
        for _ in range(repeats + 1):
            preprocess.clear()
            inference.inference_video(video, PROMPT, 1, fps=fps)
            timings, cutting = inference.stats()["timings_s"], sum(preprocess)
            found.append((timings["media"], cutting, timings["vision"] - cutting, timings["prefill"]))
    taken = {name: statistics.median(times) for name, times in zip(STAGES, zip(*found[1:], strict=True), strict=True)}
    stats, whole = inference.stats(), sum(taken.values())
    return {
        "tokens": stats["sequence_length"], "prefilled": stats["prefill_tokens"], "setting": setting,
        "mkl": os.environ.get("MKL_DEBUG_CPU_TYPE", ""),
        "first_token_s": f"{whole:.3f}", "peak_mib": round(stats["peak_memory_bytes"] / 2**20),
        **{f"{name}_s": f"{seconds:.3f}" for name, seconds in taken.items()},
        **{f"{name}_share": f"{100 * seconds / whole:.0f}" for name, seconds in taken.items()},
    }  # fmt: skip


def machine() -> str:
    import paddle

    return cpu_name() if paddle.get_device() == "cpu" else paddle.device.cuda.get_device_name()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--video", default=str(SAMPLE), help="a file (%(default)s)")
    parser.add_argument("--fps", type=float, nargs="+", default=[1.25, 5.0], help="frames a second (%(default)s)")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="answers a row (%(default)s)")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.row:
        print(json.dumps(measure(args.model, args.settings[0], args.video, args.fps[0], args.repeats)))
        return
    found, rows = facts(machine(), "paddlepaddle", "paddleformers"), []
    print(machine_line(found), header(FIELDS), sep="\n", flush=True)
    for fps in args.fps:
        for setting in args.settings:
            asked = [f"--model={args.model}", f"--video={args.video}", f"--fps={fps}", f"--repeats={args.repeats}"]
            command = [sys.executable, __file__, "--row", *asked, f"--settings={setting}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(line(rows[-1][name] for name in FIELDS), flush=True)
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
