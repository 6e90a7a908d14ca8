"""Context parallelism: the rows of one long prompt over the processes of a Paddle group, bitwise as in one call.

Each process holds the rows of two chunks (see ``context_split``), gathers the keys and values of all, and computes its
own rows. Zigzag chunks are those of striped attention's balance (arXiv:2311.09431) in contiguous pieces, as Llama 3
trains (arXiv:2407.21783, section 3.3.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import paddle
import paddle.distributed as dist

from .attention import prepare, run
from .config import AttentionConfig
from .context_split import Span, chunk_pattern, chunk_plan, context_spans
from .plan import Plan
from .stats import AuditedRows, CallStats, merge_calls
from .triangle_pattern import Pattern
from .trianglemix import TriangleMixConfig, triangle_attention


@dataclass(frozen=True)
class ContextParallel:
    """A prompt of ``length`` tokens whose rows lie with the processes of ``group``.

    Process r of N has chunks r and 2 N - 1 - r of 2 N, one after the other: ``spans``. All processes of the group make
    the same object and call its methods in the same order.

    Args:
        length: tokens of the whole prompt, more than 128 (2 N - 1).
        group: of ``paddle.distributed.new_group``; None: all processes.

    Attributes:
        rank, ranks: number of this process in the group, and of processes.
        spans: ((start, stop), (start, stop)), the tokens whose rows it has.

    Raises:
        TypeError, ValueError: no length; fewer blocks of 128 tokens than chunks; a process that is not in the group;
            several processes that have not called ``paddle.distributed.init_parallel_env()``.
    """

    length: int
    group: object = None
    rank: int = field(init=False)
    ranks: int = field(init=False)
    spans: tuple[Span, Span] = field(init=False)

    def __post_init__(self) -> None:
        rank, ranks = _place_in(self.group)
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "ranks", ranks)
        object.__setattr__(self, "spans", context_spans(self.length, ranks, rank))

    @property
    def rows(self) -> int:
        """How many rows this process has."""
        return self._rows_of(self.rank)

    def _rows_of(self, rank: int) -> int:
        return sum(stop - start for start, stop in context_spans(self.length, self.ranks, rank))

    def split(self, x, axis: int = 2):
        """This process's rows of the whole ``x``, which has ``length`` of them along ``axis``; any dtype.

        Raises:
            TypeError: no tensor. ValueError: another number of rows, or no such axis.
        """
        problem = _misfit(x, axis, self.length, "")
        if problem is not None:
            raise problem
        return paddle.concat([_rows(x, axis, *span) for span in self.spans], axis=axis)

    def gather(self, x, axis: int = 2):
        """The whole tensor, in the prompt's order, of every process's own rows ``x`` along ``axis``; any dtype that the
        group's backend sends.

        Raises:
            TypeError, ValueError: on all processes with the same sentence, before ``x`` is sent: one has no tensor, no
                such axis or another number of rows than its own, or the processes' tensors differ in another dimension
                or in dtype.
        """
        problem, facts = _misfit(x, axis, self.rows, "its own "), {}
        if problem is None:
            facts = {f"axis {i}": n for i, n in enumerate(x.shape) if i != axis % x.ndim}
            facts |= {"axis": axis, "dtype": int(x.dtype)}
        self._agree(problem, facts)
        return self._gather(x, axis)

    def gather_stats(self, stats: CallStats) -> CallStats:
        """The whole prompt's statistics, on every process, of each process's own of one call. Reads from the device."""
        own = (
            [np.asarray(work) for work in stats.work],
            stats.pairs,
            [AuditedRows(np.asarray(audit.sums), audit.lengths) for audit in stats.audits],
        )
        every = self._gather_object(own)
        work, pairs, audits = ([x for part in every for x in part[i]] for i in range(3))
        lengths = ((self.length, self.length),) * (len(stats.lengths) // 2)
        return CallStats(stats.backend, stats.mode, stats.reason, lengths, work, pairs, audits)

    def _gather(self, x, axis: int):
        """``gather`` of what was checked."""
        if self.ranks == 1:
            return x
        early, late = self._begin_gather(x, axis)
        return paddle.concat([*early(), *late()], axis=axis)

    def _begin_gather(self, x, axis: int) -> list[Callable[[], list]]:
        """Begin to send everybody's early chunks, and after them the late ones; for each a function that waits for them
        and returns them in the prompt's order."""
        spans = [context_spans(self.length, self.ranks, rank) for rank in range(self.ranks)]
        first, sent = 0, []
        for half in (0, 1):
            sizes = [stop - start for start, stop in (own[half] for own in spans)]
            own = _rows(x, axis, first, first + sizes[self.rank])
            first += sizes[self.rank]
            sent.append(self._begin_all_gather(own, axis, sizes, range(self.ranks)[:: -1 if half else 1]))
        return sent

    def _begin_all_gather(self, own, axis: int, sizes: list[int], order: range) -> Callable[[], list]:
        """One all-gather of chunks of ``sizes``, by rank; ``order``: in which the function returns them."""
        shape, missing = list(own.shape), max(sizes) - sizes[self.rank]
        if missing:  # the group wants as much of each process
            shape[axis] = missing
            own = paddle.concat([own, paddle.zeros(shape, dtype=own.dtype)], axis=axis)
        own, samples = own.contiguous(), own.shape[0]
        found = paddle.empty([self.ranks * samples, *own.shape[1:]], dtype=own.dtype)
        task = dist.stream.all_gather(found, own, group=self.group, sync_op=False)

        def chunks(sent=own):  # held until it has been read
            task.wait()
            return [_rows(found[rank * samples : (rank + 1) * samples], axis, 0, sizes[rank]) for rank in order]

        return chunks

    def _gather_object(self, own) -> list:
        if self.ranks == 1:
            return [own]
        every: list = []
        dist.all_gather_object(every, own, group=self.group)
        return every

    def _agree(self, problem: Exception | None, facts: dict[str, object]) -> None:
        """Raise ``problem`` of any process, or that ``facts`` differ, on all processes alike: otherwise those that have
        none would wait for the others forever. One exchange of two numbers, which the host waits for."""
        if self.ranks == 1:
            if problem is not None:
                raise problem
            return
        facts = {"length": self.length, **facts}
        own = paddle.to_tensor([int(problem is not None), zlib.crc32(repr(facts).encode())], dtype="int64")
        every = paddle.empty([self.ranks * 2], dtype="int64")
        dist.stream.all_gather(every, own, group=self.group)
        table = every.numpy().reshape([self.ranks, 2])
        if table[:, 0].any() or (table != table[0]).any():
            raise _disagreement(self._gather_object((type(problem).__name__, str(problem or ""), facts)))


def _disagreement(said: list[tuple[str, str, dict]]) -> Exception:
    """What to raise of every process's (kind of problem, sentence, facts)."""
    for rank, (kind, sentence, _) in enumerate(said):
        if sentence:
            return (TypeError if kind == "TypeError" else ValueError)(f"process {rank} of the group: {sentence}")
    first = said[0][2]
    rank, name = next((r, n) for r, (_, _, facts) in enumerate(said) for n in facts if facts[n] != first.get(n))
    return ValueError(
        f"the processes of the group must agree about {name}: process 0 has {first.get(name)}, process {rank} has "
        f"{said[rank][2][name]}."
    )


def _place_in(group) -> tuple[int, int]:
    """(rank, ranks) of this process in ``group``."""
    if group is None:
        ranks = dist.get_world_size()
        if ranks > 1 and not dist.is_initialized():
            raise ValueError("call paddle.distributed.init_parallel_env() before ContextParallel.")
        return dist.get_rank(), ranks
    if group.rank < 0:
        raise ValueError(f"this process is not in the group {group.ranks}.")
    return group.rank, group.nranks


def _misfit(x, axis: int, rows: int, whose: str) -> Exception | None:
    """Why ``x`` has not this number of rows along ``axis``, if so."""
    if not isinstance(x, paddle.Tensor):
        return TypeError(f"x must be a paddle.Tensor, got {type(x).__name__}.")
    if not -x.ndim <= axis < x.ndim:
        return ValueError(f"x of {x.ndim} dimensions has no axis {axis}.")
    if x.shape[axis] != rows:
        return ValueError(f"x must have {whose}{rows} rows along axis {axis}, got {x.shape[axis]}.")
    return None


def _rows(x, axis: int, start: int, stop: int):
    return paddle.slice(x, [axis % x.ndim], [start], [stop])


def context_parallel_attention(
    q,
    k,
    v,
    config: AttentionConfig | TriangleMixConfig | str | None = None,
    *,
    context: ContextParallel,
    scale: float | None = None,
    heads_last: bool = False,
    return_stats: bool = False,
):
    """This process's rows of causal ``pyramid_attention``, or of ``triangle_attention``, over a whole prompt.

    The rows are bitwise those of one call: the chunks begin at whole query blocks, and what the whole prompt decides
    (dense below a length, the last tokens at level 1, TriangleMix's last rows) is decided by it. Before anything else
    the processes tell each other in two numbers whether all is well, so that a mistake of one is an error of all.

    Args:
        q: [B, H, context.rows, D], this process's rows, with rotary embedding done at their own positions.
        k, v: [B, Hkv, context.rows, D], this process's own rows, which are gathered, or [B, Hkv, context.length, D],
            the whole, which is taken as it is. Samples of a batch have one length; there is no padding.
        config: as in ``pyramid_attention``, causal; or a ``TriangleMixConfig``, of which the pattern is read.
        context: the prompt's, which all processes made alike.
        scale, heads_last: as in ``pyramid_attention``.
        return_stats: also return the ``CallStats`` of these rows; ``ContextParallel.gather_stats`` has the whole
            prompt's. Of ``config.audit_rows`` each of the 2 N chunks audits its part.

    Returns:
        [B, H, context.rows, D] or [B, context.rows, H, D] in q's dtype, or (that, ``CallStats``).
        ``context.gather(out)`` has all rows.

    Raises:
        TypeError, ValueError: on all processes with the same sentence, before a tensor is sent: as
            ``pyramid_attention``; other numbers of rows; a bidirectional configuration; gradients; processes that do
            not agree.
    """
    if not isinstance(context, ContextParallel):
        raise TypeError(f"context must be a ContextParallel, got {type(context).__name__}.")
    plan = _agreed_plan(q, k, v, config, context, scale, heads_last, return_stats)
    first, parts, calls = 0, [], []
    for (start, stop), (keys, values) in zip(context.spans, _keys_and_values(k, v, context), strict=True):
        rows = _rows(q, 2, first, first + stop - start)
        part, stats = _attend(rows, _rows(keys, 2, 0, stop), _rows(values, 2, 0, stop), config, plan, context)
        first += stop - start
        parts.append(part)
        calls.append(stats)
    out = paddle.concat(parts, axis=1 if heads_last else 2)
    return (out, merge_calls(calls)) if return_stats else out


def _keys_and_values(k, v, context: ContextParallel) -> Iterator[tuple]:
    """Keys and values for the early chunk, then for the late one; these come while the early chunk is computed."""
    if k.shape[2] == context.length:
        yield k, v
        yield k, v
        return
    early, late = context._begin_gather(paddle.stack([k, v]), 3)
    both = paddle.concat(early(), axis=3)
    yield both[0], both[1]
    both = paddle.concat([both, *late()], axis=3)
    yield both[0], both[1]


def _agreed_plan(q, k, v, config, context: ContextParallel, scale, heads_last: bool, return_stats: bool) -> Plan:
    """The plan of the whole prompt's call, once every process has checked its part and all call alike."""
    plan, problem, facts = None, None, {}
    try:
        chosen = AttentionConfig() if isinstance(config, TriangleMixConfig) else AttentionConfig.of(config)
        audit_rows = chosen.audit_rows if return_stats else 0
        if not chosen.causal:
            raise ValueError("context parallelism is for causal attention; got a config with causal=False.")
        plan, _ = prepare(q, k, v, chosen, scale, None, heads_last=heads_last, audit_rows=audit_rows)
        _check_rows(q, k, v, context)
        shapes = {"q's shape but for rows": [*q.shape[:2], q.shape[3]], "k's heads": k.shape[1], "dtype": str(q.dtype),
                  "whether k and v are whole": k.shape[2] == context.length}  # fmt: skip
        triangle = config if isinstance(config, TriangleMixConfig) else None
        facts = {**shapes, "TriangleMix": triangle, **asdict(plan)}
    except (TypeError, ValueError) as error:
        problem = error
    context._agree(problem, facts)
    assert plan is not None
    return plan


def _check_rows(q, k, v, context: ContextParallel) -> None:
    """Refuse other rows than this process's, and gradients."""
    if q.shape[2] != context.rows:
        raise ValueError(f"q must have its own {context.rows} rows of {context.length}, got {q.shape[2]}.")
    if k.shape[2] not in (context.rows, context.length):
        raise ValueError(f"k and v must have their own {context.rows} rows or all {context.length}, got {k.shape[2]}.")
    if paddle.is_grad_enabled() and not all(x.stop_gradient for x in (q, k, v)):
        raise ValueError("context parallelism has no gradients; call it under paddle.no_grad().")


def _attend(q, k, v, config, plan: Plan, context: ContextParallel):
    """``(out, CallStats)`` of a chunk's rows over the keys before its end."""
    stop = k.shape[2]
    if not isinstance(config, TriangleMixConfig):
        return run(q, k, v, [0] * q.shape[0], chunk_plan(plan, context.length, stop, 2 * context.ranks))
    whole = Pattern(config.num_sink_tokens, config.sliding_window_size, config.num_last_tokens)
    pattern = chunk_pattern(whole, context.length, stop)
    return triangle_attention(
        q,
        k,
        v,
        num_sink_tokens=pattern.sink,
        sliding_window_size=pattern.window,
        num_last_tokens=pattern.last,
        scale=plan.scale,
        backend=plan.backend,
        heads_last=plan.heads_last,
        return_stats=True,
    )
