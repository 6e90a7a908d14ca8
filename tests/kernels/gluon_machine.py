"""A slow stand-in for a Hopper multiprocessor, on which the Gluon kernels run line by line: Gluon has no interpreter.

Each partition of ``warp_specialize`` is a thread. Barriers count arrivals and bytes and have a phase; a wait that
nothing can end is reported as a deadlock. Products are made, and stores to global memory written, at the wait for them,
so that an operand which is given up too early shows. Addresses must lie in a tensor. Shared memory starts as NaN and is
laid out as the tensor memory accelerator's 128-byte swizzle wants it, 64 columns at a time.

What threads wrote to shared memory must be fenced by whoever hands it to the tensor cores or to the accelerator.

Not modelled: barriers among the threads of a warpgroup, registers.
"""

from __future__ import annotations

import threading
import types
from importlib import import_module

import numpy as np
from kernels.gluon_memory import Memory, Pointer, Shared, place_of, value

MODULES = (
    "common", "pooled", "hopper_shared", "hopper_tiles", "hopper_copies", "hopper_producer", "hopper_consumer",
    "attend_hopper",
)  # fmt: skip
THREADS = 128  # of a warpgroup


class Barrier:
    """Flips its phase when all arrivals and all bytes are there."""

    def __init__(self):
        self.count = self.pending = self.bytes = self.phase = 0


class Machine:
    """The launch's barriers and threads."""

    def __init__(self):
        self.memory, self.turn, self.own = Memory(), threading.Condition(), threading.local()
        self.live, self.waiting, self.error = 0, {}, None
        self.writes, self.written = 0, {}  # by threads: how many, and the last one of each place in shared memory

    # The two ways to shared memory

    def wrote(self, to, by_threads=True):
        with self.turn:
            self.writes += by_threads
            for row in place_of(to):
                self.written[row] = self.writes if by_threads else 0

    def fence(self):
        with self.turn:
            self.own.fenced = self.writes

    def check_fenced(self, x):
        if isinstance(x, Shared):
            with self.turn:
                late = max(self.written.get(row, 0) for row in place_of(x))
            assert late <= self.own.fenced, "read past the threads' writes without a fence"

    # Barriers

    def init(self, bar, count):
        bar.count = bar.pending = count

    def arrive(self, bar, count=1, size=0):
        with self.turn:
            bar.pending -= count
            bar.bytes += size
            assert bar.pending >= 0, "more arrivals than the barrier was made for"
            if bar.pending == 0 and bar.bytes == 0:
                bar.pending, bar.phase = bar.count, bar.phase ^ 1
                self.turn.notify_all()

    def expect(self, bar, size):
        self.arrive(bar, 1, int(size))

    def wait(self, bar, phase):
        phase, me = int(phase), threading.get_ident()
        assert phase in (0, 1)
        with self.turn:
            self.waiting[me] = bar, phase
            self._look_for_deadlock()
            self.turn.wait_for(lambda: self.error or bar.phase != phase)
            del self.waiting[me]
            if self.error:
                raise RuntimeError("another partition failed")

    def _look_for_deadlock(self):
        stuck = [bar.phase == phase for bar, phase in self.waiting.values()]
        if self.live and len(stuck) == self.live and all(stuck) and not self.error:
            self.error = AssertionError("deadlock: every partition waits")
            self.turn.notify_all()

    # Threads

    def warp_specialize(self, partitions, warps, registers):
        def run(function, args):
            try:
                self.own.products, self.own.stores, self.own.fenced = [], [], 0
                with np.errstate(all="ignore"):
                    function(*args)
                assert not self.own.stores, "left before its stores were read"
            except BaseException as error:
                with self.turn:
                    self.error = self.error or error
            with self.turn:
                self.live -= 1
                self._look_for_deadlock()
                self.turn.notify_all()

        self.live = len(partitions)
        threads = [threading.Thread(target=run, args=one, daemon=True) for one in partitions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a partition goes on for ever"
        if self.error:
            raise self.error

    # Products

    def mma(self, a, b, acc, use_acc=True, is_async=False):
        self.check_fenced(a)
        self.check_fenced(b)
        token = {"result": None, "make": lambda: self._product(a, b, acc if use_acc else None)}
        self.own.products.append(token)
        assert is_async
        return token

    @staticmethod
    def _product(a, b, acc):
        a = a.load() if isinstance(a, Shared) else a
        found = np.asarray(a, np.float32) @ np.asarray(b.load(), np.float32)
        return value(found if acc is None else found + np.asarray(acc))

    def mma_wait(self, outstanding, deps):
        products = self.own.products
        while len(products) > outstanding:
            token = products.pop(0)
            token["result"] = token["make"]()
        assert deps[0]["result"] is not None, "a product that was not waited for"
        return deps[0]["result"]

    # Copies

    def _box(self, desc, corner):
        """Addresses of a box, and which of them lie in the tensor."""
        pointer = self.memory.add(desc.base)
        at, inside = np.int64(0), np.True_
        for axis, (first, n, size, stride) in enumerate(
            zip(corner, desc.block_shape, desc.shape, desc.strides, strict=True)
        ):
            i = (int(first) + np.arange(n, dtype=np.int64)).reshape([-1 if d == axis else 1 for d in range(5)])
            at, inside = at + i * stride, inside & (i >= 0) & (i < size)
        return pointer + np.where(inside, at, 0), inside

    def copy_in(self, desc, corner, bar, to):
        pointer, inside = self._box(desc, corner)
        x = self.memory.move(pointer, inside)
        assert x.shape == to.kept.shape
        to.kept[...] = x
        self.wrote(to, by_threads=False)
        self.arrive(bar, 0, -x.nbytes)

    def copy_out(self, desc, corner, x):
        pointer, inside = self._box(desc, corner)
        self.check_fenced(x)
        self.own.stores.append(lambda: self.memory.move(pointer, inside, x.kept))

    def store_wait(self, left):
        while len(self.own.stores) > left:
            self.own.stores.pop(0)()

    def copy_rows(self, to, pointer, mask=None):
        to.store(self.memory.move(pointer, mask))

    # What kernels see

    def language(self):
        """``gl`` and ``tl``."""

        def where(m, a, b):
            if isinstance(a, Pointer):
                return Pointer(value(np.where(m, a.at, b.at)), a.element_ty)
            a, b = (x if isinstance(x, np.ndarray) else _like(x, y) for x, y in ((a, b), (b, a)))
            return value(np.where(m, a, b))

        def allocate(dtype, shape, layout):
            return Barrier() if layout == "barrier" else Shared.allocate(dtype, shape, self.wrote)

        def atomic_add(pointer, x):
            old = self.memory.move(pointer, None)
            self.memory.move(pointer, None, old + x)
            return old

        def layout(*args):
            return None

        return types.SimpleNamespace(
            int32=np.int32, int64=np.int64, float32=np.float32, constexpr=None, static_range=range,
            NVMMASharedLayout=layout, SwizzledSharedLayout=layout, BlockedLayout=layout, SliceLayout=layout,
            NVMMADistributedLayout=layout, DotOperandLayout=layout, allocate_shared_memory=allocate,
            arange=lambda a, b, layout=None: value(np.arange(a, b, dtype=np.int32)),
            zeros=lambda shape, dtype, layout=None: value(np.zeros(shape, dtype)),
            full=lambda shape, x, dtype, layout=None: value(np.full(shape, x, dtype)),
            cast=lambda x, dtype: value(x, dtype), convert_layout=lambda x, layout: x, where=where,
            maximum=lambda a, b: value(np.maximum(a, b)), minimum=lambda a, b: value(np.minimum(a, b)),
            max=lambda x, axis: value(np.max(x, axis)), sum=lambda x, axis: value(np.sum(x, axis)),
            exp2=lambda x: value(np.exp2(x)), thread_barrier=lambda: None, atomic_add=atomic_add,
            load=lambda p, mask=None, other=0: self.memory.move(p, mask, other=other),
            store=lambda p, x, mask=None: self.memory.move(p, mask, x),
            program_id=lambda axis: value(self.program, np.int32), num_programs=lambda axis: self.programs,
            warp_specialize=self.warp_specialize,
        )  # fmt: skip

    def names(self):
        """What stands for what the kernels' modules import."""
        language = self.language()
        return {
            "gl": language,
            "tl": language,
            "mbarrier": types.SimpleNamespace(
                MBarrierLayout=lambda: "barrier", init=self.init, wait=self.wait, arrive=self.arrive, expect=self.expect
            ),
            "tma": types.SimpleNamespace(
                async_copy_global_to_shared=self.copy_in, async_copy_shared_to_global=self.copy_out,
                store_wait=self.store_wait,
            ),
            "async_copy": types.SimpleNamespace(
                async_copy_global_to_shared=self.copy_rows, wait_group=lambda left: None,
                mbarrier_arrive=lambda bar, increment_count: self.arrive(bar, THREADS),
            ),
            "warpgroup_mma": self.mma,
            "warpgroup_mma_wait": self.mma_wait,
            "fence_async_shared": self.fence,
        }  # fmt: skip

    def run(self, kernel, grid, arguments):
        """``kernel[grid](**arguments)``, one program after the other."""
        functions = translate(self.names())
        given = {
            name: self.memory.add(x) if name in kernel.__code__.co_varnames and is_tensor(x) else x
            for name, x in arguments.items()
            if name not in ("num_warps", "maxnreg")
        }
        (self.programs,) = grid
        for program in range(self.programs):
            self.program = program
            functions[kernel.__name__](**given)


def _like(x, other):
    """A Python number in the dtype of what it stands beside."""
    kind = np.asarray(other)
    if isinstance(other, np.ndarray) and (isinstance(x, int) or kind.dtype.kind == "f"):
        return np.asarray(x, kind.dtype)
    return np.asarray(x, np.int32 if isinstance(x, int) else np.float32)


def is_tensor(x) -> bool:
    return isinstance(x, np.ndarray) or hasattr(x, "data_ptr")


def translate(names) -> dict:
    """The functions of the kernels' modules, as plain Python that works on a ``Machine``; by name."""
    modules = {name: import_module(f"psa_paddle.kernels.{name}") for name in MODULES}
    spaces = {module.__name__: {} for module in modules.values()}
    made: dict = {}

    def plain(x):
        function = getattr(x, "fn", None)
        if isinstance(function, types.FunctionType) and function.__module__ in spaces:
            if function not in made:
                made[function] = types.FunctionType(
                    function.__code__, spaces[function.__module__], function.__name__, function.__defaults__
                )
            return made[function]
        return x.value if type(x).__name__ == "constexpr" else x

    found = {}
    for module in modules.values():
        space = spaces[module.__name__]
        space.update({name: names.get(name, plain(x)) for name, x in vars(module).items()})
        found.update(space)
    return found
