"""The Triton operator on genuine Paddle GPU tensors, without torch in the process.

    python benchmarks/paddle_gpu_check.py

Starts itself twice: ``--side torch`` makes the inputs, runs the operator on torch tensors and stores both; ``--side
paddle`` reads them, runs the operator on Paddle tensors with the import of torch blocked, and checks

- output, levels and work: bitwise torch's; output: within gpu_check.py's budget of the float64 reference given the
  same level map (twice the error of dense attention in the inputs' precision, plus rounding);
- token orders: STA and SemanticAware (k-means twice) move q and k to bitwise torch's places, and back to q's own;
- streams: kernels follow ``stream_guard``. A kernel holds a stream for half a second; an operator behind it must not
  have written its output meanwhile, one on the default stream must have;
- manners: the active Triton driver and the CUDA context are left as they were, also when a launch raises;
- the host's time a launch, for both frameworks.

Around the kernels only ``to_tensor``, ``_C_ops.empty`` and ``numpy`` of Paddle are used, so that a Paddle whose own GPU
kernels cannot run on the GPU at hand will do. One line a check, ``ok`` or ``FAIL``; exit status 1 when any failed.
Needs torch, Triton and paddlepaddle-gpu 2.6 or newer.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
import traceback

import numpy as np
import triton
import triton.language as tl

from psa_paddle import bridge, kernels, reference
from psa_paddle.plan import Plan
from psa_paddle.rearrange import METHODS

RATIOS = ((1, 0.0, 0.3), (2, 0.3, 0.5), (4, 0.5, 0.7), (8, 0.7, 0.9), (0, 0.9, 1.0))
MEANS = ((1, 0.0, 0.3), (0, 0.3, 1.0))
XATTN = dict(intervals=RATIOS, mask_mode="energybound", key_stride=4, thresholds=(0.75, 0.7, 0.7))
HOLD_NS = 512_000_000
CALLS = 200
# (name, dtype, B, H, Hkv, Lq, Lk, D, query block, key block, causal, first keys of a left-padded batch, changes)
CASES = [
    ("default blocks", "bfloat16", 1, 4, 1, 1000, 1000, 128, 128, 64, True, None, {}),
    ("chunk", "float16", 1, 4, 2, 777, 1500, 128, 128, 64, True, None, {"forced_text": 50}),
    ("two samples", "bfloat16", 2, 7, 1, 1024, 1024, 128, 128, 64, True, None,
     {"mask_mode": "topk", "thresholds": None}),
    ("float32", "float32", 1, 4, 1, 300, 300, 64, 64, 32, True, None, {}),
    ("one token", "float32", 1, 1, 1, 1, 1, 64, 64, 32, True, None, {}),
    ("bidirectional", "bfloat16", 1, 4, 1, 1000, 1000, 80, 64, 64, False, None, {}),
    ("bidirectional", "float16", 1, 2, 2, 129, 700, 128, 128, 64, False, None, {"importance_method": "pooling"}),
    ("pooling", "bfloat16", 1, 7, 1, 600, 600, 128, 128, 64, True, None,
     {"importance_method": "pooling", "mask_mode": "topk"}),
    ("peaks", "bfloat16", 1, 7, 1, 600, 600, 128, 128, 64, True, None,
     {"importance_method": "peak", "query_stride": 8, "key_stride": 2}),
    ("left padding", "bfloat16", 3, 4, 1, 640, 640, 128, 128, 64, True, [0, 100, 333], {"forced_text": 20}),
    ("block means", "bfloat16", 1, 4, 1, 900, 1200, 128, 128, 64, True, None,
     {"intervals": MEANS, "block_means": True}),
    ("left padding", "bfloat16", 2, 4, 1, 640, 640, 128, 128, 64, True, [0, 200], {"block_means": True}),
    ("left padding", "float16", 2, 4, 2, 300, 500, 64, 64, 32, True, [250, 0], {}),
    ("left padding", "float32", 2, 2, 1, 200, 300, 64, 64, 32, False, [0, 130], {}),
]  # fmt: skip
ORDERS, ORDERED, GRID, TEXT = ("STA", "SemanticAware"), 2, (7, 11, 13), 23  # of the case of that number
TINY = ("tiny", "bfloat16", 1, 4, 1, 256, 256, 128, 128, 64, True, None, {})


@triton.jit
def _hold_kernel(nanoseconds):
    """Keeps its stream busy."""
    start = tl.extra.cuda.globaltimer()
    while tl.extra.cuda.globaltimer() - start < nanoseconds:
        pass


def host_inputs(case):
    """float32 q [B, H, Lq, D], k, v [B, Hkv, Lk, D]; keys alike in runs of 16, so that some blocks may be pooled."""
    _, _, b, h, hkv, lq, lk, d = case[:8]
    g = np.random.default_rng(0)
    k = 2 * g.standard_normal((b, hkv, -(-lk // 16), d)).repeat(16, 2)[:, :, :lk] + g.standard_normal((b, hkv, lk, d))
    q, v = g.standard_normal((b, h, lq, d)), g.standard_normal((b, hkv, lk, d))
    return tuple(x.astype(np.float32) for x in (q, k, v))


def run(case, q, k, v, kv_start, out):
    """(out, work, levels) of one case on tensors of either framework; ``out`` is given full of NaN."""
    _, _, _, _, _, _, _, d, m, n, causal, _, changes = case
    plan = Plan(d**-0.5, causal, m, n, **{**XATTN, **changes})
    out, work = kernels.psa_fwd(q, k, v, plan, kv_start=kv_start, out=out)
    cap = kernels.pyramid_fwd(k, v, plan, kv_start=kv_start)[2]
    return out, work, kernels.select_blocks(q, k, plan, cap, kv_start=kv_start, return_levels=True).levels


def moved(method, q, k):
    """q and k in the order of the second plan, and q restored."""
    order = METHODS[method](GRID, TEXT, text_to_end=True)
    order.plan(q, k)
    plan = order.plan(q, k)
    return plan.permute(q), plan.permute_kv(k), plan.restore(plan.permute(q))


def samples(case):
    """(sample, first query, first key) of each sample of a batch."""
    _, _, b, _, _, lq, lk, _, _, _, causal, starts, _ = case
    for i, start in enumerate(starts or [0] * b):
        yield i, max(0, start - (lk - lq)) if causal else 0, start


def overhead_us(tensors) -> tuple[float, int]:
    """Host microseconds a launch over CALLS operators of the TINY case, and the launches an operator."""
    count, launch = [], bridge.launch
    plan = Plan(TINY[7] ** -0.5, True, *TINY[8:10], **XATTN)
    bridge.launch = lambda *args, **kwargs: (count.append(1), launch(*args, **kwargs))
    kernels.psa_fwd(*tensors, plan)
    bridge.launch = launch
    start = time.perf_counter()
    for _ in range(CALLS):
        kernels.psa_fwd(*tensors, plan)
    return (time.perf_counter() - start) * 1e6 / (CALLS * len(count)), len(count)


def torch_side(folder: str) -> None:
    """Store inputs (raw bits), torch's results (raw bits), and each sample's error budget."""
    import torch
    from gpu_check import budget

    for number, case in enumerate([*CASES, TINY]):
        dtype, starts = getattr(torch, case[1]), case[11]
        bits = torch.int16 if dtype.itemsize == 2 else torch.int32
        tensors = [torch.from_numpy(x).to("cuda", dtype) for x in host_inputs(case)]
        stored = {name: x.view(bits).cpu().numpy() for name, x in zip("qkv", tensors, strict=True)}
        stored |= {name: x.double().cpu().numpy() for name, x in zip(("q64", "k64", "v64"), tensors, strict=True)}
        kv_start = None if starts is None else torch.tensor(starts, dtype=torch.int32, device="cuda")
        out, work, levels = run(case, *tensors, kv_start, torch.full_like(tensors[0], float("nan")))
        if number == ORDERED:
            stored |= {
                f"{m}{i}": x.view(bits).cpu().numpy() for m in ORDERS for i, x in enumerate(moved(m, *tensors[:2]))
            }
        stored |= dict(out=out.view(bits).cpu().numpy(), work=work.cpu().numpy(), levels=levels.cpu().numpy())
        scale, q, k, v = case[7] ** -0.5, *tensors
        stored["budget"] = np.array([
            budget(q[i : i + 1, :, o_q:], k[i : i + 1, :, o_k:], v[i : i + 1, :, o_k:], scale, case[10], dtype)
            for i, o_q, o_k in samples(case)
        ])  # fmt: skip
        np.savez(f"{folder}/{number}.npz", **stored)
    us, launches = overhead_us(tensors)
    print(f"ok   torch tensors: {us:.1f} us of host time a launch, {launches} launches an operator", flush=True)


class BlockTorch:
    """Import hook: torch cannot be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch' (blocked)", name="torch")


class PaddleSide:
    """The checks on Paddle tensors; ``failed`` counts."""

    def __init__(self, folder: str):
        import paddle

        self.paddle, self.folder, self.failed = paddle, folder, 0
        self.place = paddle.CUDAPlace(0)

    def report(self, good, text: str) -> None:
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)

    def tensor(self, x, dtype: str = "int32"):
        """A GPU tensor of raw bits; Paddle reads uint16 as bfloat16."""
        host = np.ascontiguousarray(x).view("uint16" if dtype == "bfloat16" else dtype)
        found = self.paddle.to_tensor(host, place=self.place)
        if bridge.dtype_name(found) != dtype:
            raise RuntimeError(f"to_tensor made {found.dtype}, not {dtype}")
        return found

    def poison(self, shape, dtype: str):
        return self.tensor(np.full(shape, -1, np.int32 if dtype == "float32" else np.int16), dtype)  # NaN's bits

    def load(self, number: int, case):
        stored = np.load(f"{self.folder}/{number}.npz")
        return stored, [self.tensor(stored[name], case[1]) for name in "qkv"]

    def check_case(self, number: int, case) -> None:
        name, dtype, b, h, hkv, lq, lk, d, m, n, causal, starts, changes = case
        stored, tensors = self.load(number, case)
        kv_start = None if starts is None else self.tensor(np.array(starts, np.int32))
        out, work, levels = run(case, *tensors, kv_start, self.poison(tensors[0].shape, dtype))
        genuine = all(isinstance(x, self.paddle.Tensor) and x.place.is_gpu_place() for x in (*tensors, out, work))
        out, work, levels = found = [x.numpy() for x in (out, work, levels)]
        pairs = zip(("out", "work", "levels"), found, strict=True)
        unlike = [key for key, x in pairs if x.tobytes() != stored[key].tobytes()]
        exact = out.astype(np.float64) if dtype != "bfloat16" else (out.astype(np.uint32) << 16).view(np.float32)
        worst, padding = 0.0, True
        for i, o_q, o_k in samples(case):
            q, k, v = stored["q64"][i, :, o_q:], stored["k64"][i, :, o_k:], stored["v64"][i, :, o_k:]
            cut = levels[i, :, : -(-(lq - o_q) // m), : -(-(lk - o_k) // n)].astype(int)
            want = reference.attend(q, k, v, cut, Plan(d**-0.5, causal, m, n, block_means="block_means" in changes))
            worst = np.maximum(worst, np.abs(exact[i, :, o_q:] - want).max() / stored["budget"][i])  # keeps NaN
            padding &= not exact[i, :, :o_q].any()
        text = f"{name}, {dtype} {'causal' if causal else 'bidirectional'} {(b, h, hkv, lq, lk, d, m, n)}"
        text += f": error {worst:.2f} of the budget, levels {np.unique(levels)}, "
        text += "unlike torch: " + ", ".join(unlike) if unlike else "bitwise as torch"
        text += ("" if padding else ", padding not zero") + ("" if genuine else ", not on the GPU")
        self.report(genuine and worst <= 1 and padding and not unlike, text)

    def check_orders(self) -> None:
        stored, (q, k, _) = self.load(ORDERED, CASES[ORDERED])
        for method in ORDERS:
            found = [x.numpy() for x in moved(method, q, k)]
            same = all(x.tobytes() == stored[f"{method}{i}"].tobytes() for i, x in enumerate(found))
            self.report(same and found[2].tobytes() == stored["q"].tobytes(), f"token order {method}: bitwise as torch")

    def check_streams(self) -> None:
        """What was written while a side stream was held: nothing by an operator on it, all by one elsewhere."""
        from psa_paddle.bridge import driver

        cuda = self.paddle.device.cuda
        stored, tensors = self.load(len(CASES), TINY)
        want = stored["out"]
        outs = {name: self.poison(want.shape, TINY[1]) for name in ("warm", "held", "free")}
        side, default, peeking = cuda.Stream(), cuda.current_stream(), ctypes.c_void_p()
        driver._call("cuCtxPushCurrent_v2", driver.primary_context(0))
        driver._call("cuStreamCreate", ctypes.byref(peeking), 1)  # 1: not synchronised with the null stream

        def peek(name):
            """Device memory as it is now, read on a stream of our own."""
            host = np.empty_like(want)
            source, size = ctypes.c_uint64(outs[name].data_ptr()), ctypes.c_size_t(host.nbytes)
            driver._call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(host.ctypes.data), source, size, peeking)
            driver._call("cuStreamSynchronize", peeking)
            return host

        def operator(name, hold_ns=0):
            if hold_ns:
                bridge.launch(_hold_kernel, (1,), like=tensors[0], nanoseconds=hold_ns)
            run(TINY, *tensors, None, outs[name])
            return driver.driver_of(0).get_current_stream(0)

        with cuda.stream_guard(side):  # compile, and let the allocator have what it needs
            operator("warm", HOLD_NS // 32)
        side.synchronize()
        operator("warm")
        default.synchronize()
        start = time.perf_counter()
        with cuda.stream_guard(side):
            seen = [operator("held", HOLD_NS)]
        seen.append(operator("free"))
        time.sleep(0.1)
        held, free, busy = peek("held"), peek("free"), not side.query()
        took = (time.perf_counter() - start) * 1e3
        side.synchronize()
        released = peek("held")
        driver._call("cuStreamDestroy_v2", peeking)
        driver._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        right = seen == [side.cuda_stream, default.cuda_stream] and seen[0] != seen[1]
        self.report(right, f"the driver passes Paddle's current stream: {seen}")
        self.report(busy, f"the side stream is still held after {took:.0f} ms (else the next lines say nothing)")
        self.report(busy and bool((held == -1).all()), "behind a held stream the operator has written nothing")
        self.report(busy and np.array_equal(free, want), "the operator on the default stream did not wait")
        self.report(np.array_equal(released, want), "after its release the held operator's output is torch's, bitwise")

    def check_manners(self) -> None:
        """Triton's active driver and the thread's CUDA context are those from before, also after an error."""
        from psa_paddle.bridge import driver

        config = triton.runtime.driver

        def context():
            found = ctypes.c_void_p()
            driver._call("cuCtxGetCurrent", ctypes.byref(found))
            return found.value

        _, tensors = self.load(len(CASES), TINY)
        original, before = config._active, context()
        for active in (original, object()):
            config.set_active(active)
            run(TINY, *tensors, None, self.poison(tensors[0].shape, TINY[1]))
            kept, raised = config._active is active, False
            try:
                bridge.launch(_hold_kernel, (1,), like=tensors[0])
            except TypeError:  # an argument is missing
                raised = True
            kept &= config._active is active
            config.set_active(original)
            self.report(kept and raised, f"the active driver is {active} again, also after an error")
        self.report(context() == before, "the thread's CUDA context is the one from before")

    def check_overhead(self) -> None:
        us, launches = overhead_us(self.load(len(CASES), TINY)[1])
        self.report(True, f"Paddle tensors: {us:.1f} us of host time a launch, {launches} launches an operator")

    def run_all(self) -> None:
        checks = [(self.check_case, number, case) for number, case in enumerate(CASES)]
        checks += [
            (check,) for check in (self.check_orders, self.check_streams, self.check_manners, self.check_overhead)
        ]
        for check, *args in checks:
            try:
                check(*args)
            except Exception as error:  # one check that breaks must not hide the others
                traceback.print_exc()
                self.report(False, f"{check.__name__} {args}: {type(error).__name__}")
        self.report("torch" not in sys.modules, "torch was never imported")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("torch", "paddle"), help="what the sub-processes do")
    parser.add_argument("--folder", help="where the sides meet")
    args = parser.parse_args()
    if args.side == "torch":
        torch_side(args.folder)
    elif args.side == "paddle":
        sys.meta_path.insert(0, BlockTorch())
        side = PaddleSide(args.folder)
        side.report(True, f"Paddle {side.paddle.__version__}, Triton {triton.__version__}, Python {sys.version[:7]}")
        side.run_all()
        sys.exit(side.failed > 0)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("torch", "paddle"):
                command = [sys.executable, os.path.abspath(__file__), "--side", name, "--folder", folder]
                if subprocess.run(command).returncode:
                    sys.exit(f"FAIL the {name} side")


if __name__ == "__main__":
    main()
