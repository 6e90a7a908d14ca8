"""The two processes of test_paddle_tensors.py: ``python paddle_sides.py torch|paddle FOLDER``.

The torch side stores its results (raw bits) in FOLDER; the Paddle side, which cannot import torch, compares its own
with them and writes FOLDER/report.json: {check: what is wrong, or ""}. Around the kernels only ``to_tensor``,
``_C_ops.empty`` and ``numpy`` of Paddle are used, so that a Paddle whose own GPU kernels cannot run on the GPU at hand
will do.
"""

import ctypes
import json
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import triton
import triton.language as tl
from gpu.paddle_cases import CASES, ORDERED, ORDERS, TINY, Case, moved, run
from kernels.kernel_cases import error_budget

from psa_paddle import bridge, reference

HOLD_NS = 512_000_000


@triton.jit
def _hold_kernel(nanoseconds):
    """Keeps its stream busy."""
    start = tl.extra.cuda.globaltimer()
    while tl.extra.cuda.globaltimer() - start < nanoseconds:
        pass


def bits_of(x: np.ndarray, dtype: str) -> np.ndarray:
    """The raw bits of ``rounded`` numbers."""
    return (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else x


def torch_side(folder: Path) -> None:
    import torch

    def bits(x):
        return x.view(torch.int16 if x.dtype.itemsize == 2 else torch.int32).cpu().numpy()

    for name, case in {**CASES, "tiny": TINY}.items():
        tensors = [torch.from_numpy(x).to("cuda", getattr(torch, case.dtype)) for x in case.host]
        starts = torch.tensor(case.starts, dtype=torch.int32, device="cuda") if case.starts else None
        out, work, levels = run(case, *tensors, starts, torch.full_like(tensors[0], float("nan")))
        stored = dict(out=bits(out), work=work.cpu().numpy(), levels=levels.cpu().numpy())
        if case is ORDERED:
            stored |= {f"{m}{i}": bits(x) for m in ORDERS for i, x in enumerate(moved(m, *tensors[:2]))}
        np.savez(folder / f"{name}.npz", **stored)


class BlockTorch:
    """Import hook: torch cannot be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch' (blocked)", name="torch")


class PaddleSide:
    """The checks on Paddle tensors; ``found`` is the report."""

    def __init__(self, folder: Path):
        import paddle

        self.paddle, self.folder, self.found = paddle, folder, {}
        self.place = paddle.CUDAPlace(0)

    def report(self, name: str, good, wrong: str) -> None:
        self.found[name] = "" if good else wrong

    def tensor(self, x, dtype: str = "int32"):
        """A GPU tensor of raw bits; Paddle reads uint16 as bfloat16."""
        host = np.ascontiguousarray(x).view("uint16" if dtype == "bfloat16" else dtype)
        made = self.paddle.to_tensor(host, place=self.place)
        if bridge.dtype_name(made) != dtype:
            raise RuntimeError(f"to_tensor made {made.dtype}, not {dtype}")
        return made

    def poison(self, shape, dtype: str):
        return self.tensor(np.full(shape, -1, np.int32 if dtype == "float32" else np.int16), dtype)  # NaN's bits

    def load(self, name: str, case: Case):
        stored = np.load(self.folder / f"{name}.npz")
        return stored, [self.tensor(bits_of(x, case.dtype), case.dtype) for x in case.host]

    def check_case(self, name: str, case: Case) -> None:
        wrong = []
        for which in ("made", "repeated"):  # on other tensors, which the call's recording has never seen
            stored, tensors = self.load(name, case)
            starts = self.tensor(np.array(case.starts, np.int32)) if case.starts else None
            out, work, levels = run(case, *tensors, starts, self.poison(tensors[0].shape, case.dtype))
            genuine = all(isinstance(x, self.paddle.Tensor) and x.place.is_gpu_place() for x in (*tensors, out, work))
            out, work, levels = found = [x.numpy() for x in (out, work, levels)]
            pairs = zip(("out", "work", "levels"), found, strict=True)
            wrong += [f"{key} unlike torch's, {which}" for key, x in pairs if x.tobytes() != stored[key].tobytes()]
        wrong += [] if genuine else ["not on the GPU"]
        exact = out.astype(np.float64) if case.dtype != "bfloat16" else (out.astype(np.uint32) << 16).view(np.float32)
        plan, (lq, lk) = case.plan, case.shape[:2]
        for i, o_q, o_k in case.samples():
            cut = levels[i, :, : -(-(lq - o_q) // plan.query_block), : -(-(lk - o_k) // plan.key_block)].astype(int)
            own = [x[i : i + 1, :, first:] for x, first in zip(case.host, (o_q, o_k, o_k), strict=True)]
            want = reference.attend(*(x[0].astype(float) for x in own), cut, plan)
            error, budget = (
                np.abs(exact[i, :, o_q:] - want).max(),
                error_budget(*own, plan.scale, plan.causal, case.dtype),
            )
            wrong += [] if error <= budget else [f"sample {i}: error {error:.2e} of {budget:.2e}"]
            wrong += ["padding not zero"] if exact[i, :, :o_q].any() else []
        self.report(name, not wrong, ", ".join(wrong))

    def check_order(self, method: str) -> None:
        name = next(name for name, case in CASES.items() if case is ORDERED)
        stored, (q, k, _) = self.load(name, ORDERED)
        found = [x.numpy() for x in moved(method, q, k)]
        same = all(x.tobytes() == stored[f"{method}{i}"].tobytes() for i, x in enumerate(found))
        back = found[2].tobytes() == q.numpy().tobytes()
        self.report(f"token order {method}", same and back, f"as torch: {same}, q back in its places: {back}")

    def check_streams(self) -> None:
        """What was written while a side stream was held: nothing by an operator on it, all by one elsewhere."""
        from psa_paddle.bridge import driver

        cuda = self.paddle.device.cuda
        stored, tensors = self.load("tiny", TINY)
        want = stored["out"]
        outs = {name: self.poison(want.shape, TINY.dtype) for name in ("warm", "held", "free")}
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

        def launch(name, hold_ns=0):
            if hold_ns:
                bridge.launch(_hold_kernel, (1,), like=tensors[0], nanoseconds=hold_ns)
            run(TINY, *tensors, None, outs[name])
            return driver.driver_of(0).get_current_stream(0)

        with cuda.stream_guard(side):  # compile, and let the allocator have what it needs
            launch("warm", HOLD_NS // 32)
        side.synchronize()
        launch("warm")
        default.synchronize()
        start = time.perf_counter()
        with cuda.stream_guard(side):
            seen = [launch("held", HOLD_NS)]
        seen.append(launch("free"))
        time.sleep(0.1)
        held, free, busy = peek("held"), peek("free"), not side.query()
        took = (time.perf_counter() - start) * 1e3
        side.synchronize()
        released = peek("held")
        driver._call("cuStreamDestroy_v2", peeking)
        driver._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        right = seen == [side.cuda_stream, default.cuda_stream] and seen[0] != seen[1]
        late = f"the side stream was free after {took:.0f} ms already"
        self.report("the driver passes Paddle's current stream", right, f"it passed {seen}")
        self.report("behind a held stream nothing is written", busy and (held == -1).all(), "written" if busy else late)
        self.report(
            "the default stream does not wait", busy and np.array_equal(free, want), "unlike torch's" if busy else late
        )
        self.report("after its release the output is torch's", np.array_equal(released, want), "unlike torch's")

    def check_manners(self) -> None:
        """Triton's active driver and the thread's CUDA context are those from before, also after an error."""
        from psa_paddle.bridge import driver

        config = triton.runtime.driver

        def context():
            found = ctypes.c_void_p()
            driver._call("cuCtxGetCurrent", ctypes.byref(found))
            return found.value

        _, tensors = self.load("tiny", TINY)
        original, before = config._active, context()
        for name, active in (("Triton's driver", original), ("another driver", object())):
            config.set_active(active)
            run(TINY, *tensors, None, self.poison(tensors[0].shape, TINY.dtype))
            kept, raised = config._active is active, False
            try:
                bridge.launch(_hold_kernel, (1,), like=tensors[0])
            except TypeError:  # an argument is missing
                raised = True
            kept &= config._active is active
            config.set_active(original)
            self.report(f"{name} stays active", kept and raised, f"kept: {kept}, the wrong launch raised: {raised}")
        self.report("the CUDA context stays", context() == before, "another context")

    def run_all(self) -> None:
        checks = [(self.check_case, name, case) for name, case in CASES.items()]
        checks += [(self.check_order, method) for method in ORDERS] + [(self.check_streams,), (self.check_manners,)]
        for check, *args in checks:
            try:
                check(*args)
            except Exception:  # one check that breaks must not hide the others
                traceback.print_exc()
        self.report("torch is never imported", "torch" not in sys.modules, "it was")


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    if sys.argv[1] == "torch":
        torch_side(folder)
    else:
        sys.meta_path.insert(0, BlockTorch())
        paddle_side = PaddleSide(folder)
        paddle_side.run_all()
        (folder / "report.json").write_text(json.dumps(paddle_side.found))
