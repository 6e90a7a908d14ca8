"""What a report shows of a request's attention: levels of chosen layers, and which keys the question's rows look at.

A recorder hangs on the plug while it is wanted. It computes the levels once more from the queries and keys that a layer
attended with, so that the operator itself keeps nothing; what it keeps is bounded, whatever the length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import paddle

from ..attention import check_scale, level_map
from ..config import AttentionConfig
from ..eager import key_mass
from ..geometry import Geometry
from ..integrations.language.attention import plug_of
from ..integrations.language.families import check
from ..integrations.language.paddleformers.pruner import pruner_of
from ..integrations.language.plugs import bare_model
from ..integrations.language.request import whole_number
from ..integrations.language.team import ALONE, Team
from ..stats import CallStats, read_calls, work_of

CELLS = 256  # most cells of a map on a side
QUESTION_ROWS = 16  # rows of the question whose weights are computed
MAPS = 4  # layers whose levels are kept where nobody says which
WAYS = ("1", "2", "4", "8", "means", "skipped")


@dataclass(frozen=True)
class LevelMap:
    """How the key blocks of one call took part.

    lengths: (Lq, Lk) in tokens; blocks: (query_block, key_block) in tokens; cells: float32 [ways, rows, columns], of
    the pairs of blocks in each cell, all heads together, the share that is valid and took part in each of ``WAYS``; at
    most ``CELLS`` a side; shares: [ways], of all valid pairs; pairs: how many are valid, a head; per_head_density:
    share of the dense work, [H].
    """

    lengths: tuple[int, int]
    blocks: tuple[int, int]
    cells: np.ndarray
    shares: list[float]
    pairs: int
    per_head_density: list[float]


def make_level_map(levels: np.ndarray, geo: Geometry, block_means: bool) -> LevelMap:
    """Condense a host level map [1, H, nI, nJ]; block_means: skipped blocks may take part by their means."""
    columns, valid = np.arange(geo.n_j), _valid(geo)
    n_means = np.array([geo.n_means(i) if block_means else 0 for i in range(geo.n_i)])
    by_means = columns < n_means[:, None]
    # A prefill in chunks has a map a chunk, which share the height of one.
    rows = min(geo.n_i, max(1, round(CELLS * geo.lq / geo.lk)))
    cells: list[np.ndarray] = []
    shares, pairs = [], geo.n_pairs()
    for level in (1, 2, 4, 8, 0, 0):
        share = (levels[0] == level).mean(0, dtype=np.float32)
        if level == 0:
            share = share * (by_means if len(cells) == WAYS.index("means") else valid & ~by_means)
        cells.append(_condense(share, rows, min(geo.n_j, CELLS)))
        shares.append(float(share.sum(dtype=np.float64)) / pairs)
    density = (work_of(levels, geo, block_means)[0] / pairs).tolist()
    return LevelMap((geo.lq, geo.lk), (geo.query_block, geo.key_block), np.stack(cells), shares, pairs, density)


def _valid(geo: Geometry) -> np.ndarray:
    """Which pairs of blocks there are, bool [nI, nJ]."""
    return np.arange(geo.n_j) < np.array([geo.n_valid(i) for i in range(geo.n_i)])[:, None]


def _condense(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means of an array [n, m] over rows x columns parts as equal as they can be."""
    for axis, parts in enumerate((rows, columns)):
        bounds = np.arange(parts + 1) * x.shape[axis] // parts
        sizes = np.diff(bounds).reshape([-1, 1] if axis == 0 else [1, -1])
        x = np.add.reduceat(x, bounds[:-1], axis=axis) / sizes
    return x.astype(np.float32)


def merge_maps(parts: list[LevelMap]) -> LevelMap:
    """The map of one call whose heads were split evenly over ``parts``."""
    cells = np.mean([part.cells for part in parts], 0, dtype=np.float32)
    shares = np.mean([part.shares for part in parts], 0).tolist()
    return replace(parts[0], cells=cells, shares=shares, per_head_density=sum((p.per_head_density for p in parts), []))


class Recorder:
    """Sees the prefill of one request; ``recording`` makes one. It is a streamer: it hears the prompt's tokens, and
    hands them on to another streamer, if any.

    layers: whose levels are kept; mass: by layer, the share of the question's attention that each key has, float64
    [Lk]; it and the maps are those of all ranks' heads once the answer is complete; ids: the prompt's tokens, int64
    [L], those before it that a KV cache holds included; stay: which of them the layers read, bool [L], all but dropped
    video tokens; seconds: what recording took, which is part of the request's time to the first token.
    """

    def __init__(
        self, plug, layers: list[int], vision_ids: list[int], streamer=None, staying=None, before=(),
        team: Team = ALONE,
    ):  # fmt: skip
        self.layers, self.seconds, self._team = layers, 0.0, team
        self._before, self._new = np.array(before, np.int64), 0
        self._staying: Callable[[np.ndarray], np.ndarray] = staying or (lambda ids: np.ones(ids.shape, bool))
        self._maps: dict[int, list[LevelMap]] = {}
        self._ran_sparse: set[int] = set()
        self.mass: dict[int, np.ndarray] = {}
        self.ids: np.ndarray | None = None
        self.stay = np.ones(0, bool)
        self.plug, self._vision_ids, self._streamer = plug, vision_ids, streamer

    def put(self, value) -> None:
        """Token ids from the model: the prompt's first.

        Raises:
            ValueError: a batch.
        """
        if self.ids is None:
            ids = np.asarray(value).astype(np.int64)
            if ids.ndim == 2 and len(ids) != 1:
                raise ValueError("a report shows one request; ask one at a time.")
            new = ids.reshape(-1)
            self._new = len(new)
            self.ids = np.concatenate([self._before, new])
            self.stay = np.concatenate([np.ones(self._before.shape, bool), self._staying(new)])
        if self._streamer is not None:
            self._streamer.put(value)

    def end(self) -> None:
        """The answer is complete."""
        ranks = self._team.gather((self.mass, self._maps))
        self.mass = {layer: np.mean([mass[layer] for mass, _ in ranks], 0) for layer in self.mass}
        self._maps = {
            layer: [merge_maps(list(parts)) for parts in zip(*(maps[layer] for _, maps in ranks), strict=True)]
            for layer in self._maps
        }
        if self._streamer is not None:
            self._streamer.end()

    @property
    def maps(self) -> dict[int, list[LevelMap]]:
        """By layer, a ``LevelMap`` for each of its calls; layers that ran sparse with PSA at least once."""
        return {layer: calls for layer, calls in sorted(self._maps.items()) if layer in self._ran_sparse}

    @property
    def vision(self) -> np.ndarray:
        """Which tokens of the prompt stand for pictures or frames, bool [L].

        Raises:
            RuntimeError: before a request.
        """
        if self.ids is None:
            raise RuntimeError("nothing was recorded; ask something with the recorder as the streamer.")
        return np.isin(self.ids, self._vision_ids)

    @property
    def question_rows(self) -> int:
        """Last rows of the prompt whose attention is recorded: those after the last vision token, a few at most."""
        return max(1, min(QUESTION_ROWS, self._new, int(np.argmax(self.vision[::-1]) or QUESTION_ROWS)))

    def see(self, layer: int, query, key, scale: float | None, config: AttentionConfig | None, call: CallStats) -> None:
        """A prefill call of a layer: query [1, H, Lq, D], key [1, Hkv, Lk, D]; config: PSA's, None for a layer of
        another kind. Of several calls, a prompt that comes in chunks, the last has the question."""
        if query.place.is_gpu_place():
            paddle.device.synchronize()  # so that the seconds are the recorder's own
        start = time.perf_counter()
        self.mass[layer] = key_mass(query, key, check_scale(scale, query.shape[3]), self.question_rows)
        if layer in self.layers and config is not None:
            geo = Geometry(query.shape[2], key.shape[2], config.query_block, config.key_block, True)
            levels = _valid(geo)[None, None].astype(np.int8)  # level 1, where the call ran dense
            if call.mode == "sparse":
                levels = level_map(query, key, config, scale=scale)
                self._ran_sparse.add(layer)
            self._maps.setdefault(layer, []).append(make_level_map(levels, geo, config.uses_means))
        self.seconds += time.perf_counter() - start

    def heads(self) -> dict[int, list[float]]:
        """By layer, the share of the dense work that was not done in each head, as ``stats()`` counts it: of the work
        of all calls, none of those that ran dense."""
        records = read_calls(self.plug.calls)
        heads = max([1, *(len(one.per_head_density) for one in records)])
        skipped: dict[int, list[np.ndarray]] = {}
        pairs: dict[int, list[int]] = {}
        for one in records:
            skipped.setdefault(one.layer, []).append(1.0 - np.array(one.per_head_density or [1.0] * heads))
            pairs.setdefault(one.layer, []).append(one.pairs)
        return {
            layer: np.average(calls, axis=0, weights=pairs[layer]).tolist() for layer, calls in sorted(skipped.items())
        }

    def mass_of_frames(self, parts: int) -> np.ndarray | None:
        """Share of the question's attention that falls on each of ``parts`` equal parts of the vision tokens (the
        pairs of frames of a clip), by layer in ascending order: float64 [layers, parts]; of pictures, whose sizes
        differ, ``parts`` runs of vision tokens. None where no layer was recorded, the tokens fall apart otherwise, or
        video tokens were dropped in an earlier turn of the conversation."""
        places = np.flatnonzero(self.vision)
        runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        if len(runs) != parts:
            if len(places) % parts:
                return None
            runs = np.split(places, parts)
        if not self.mass or any(len(mass) != self.stay.sum() for mass in self.mass.values()):
            return None
        whole = np.zeros((len(self.mass), len(self.stay)))
        whole[:, self.stay] = [self.mass[layer] for layer in sorted(self.mass)]
        return np.array([[row[run].sum() for run in runs] for row in whole])


@contextmanager
def recording(model, layers: list[int] | None = None, streamer=None, before: Sequence[int] = ()) -> Iterator[Recorder]:
    """``with recording(model) as record: model.inference_video(path, prompt, streamer=record)``.

    Args:
        model: a ``QwenVLInference`` with sparse attention.
        layers: whose levels are kept; by default four, evenly spread.
        streamer: who else hears the tokens.
        before: the tokens of a conversation that its KV cache holds, all of ``Session.ids`` but the last.

    Raises:
        ValueError: dense attention, or layers that the model does not have.
    """
    plug = plug_of(model)
    if plug is None:
        raise ValueError("a model with dense attention has nothing to record; give use_psa=True or attention=....")
    vision_ids = check(bare_model(model)).family.vision_ids(bare_model(model).config)

    def staying(ids: np.ndarray) -> np.ndarray:
        stay, pruner = np.ones(ids.shape, bool), pruner_of(model)
        if pruner is not None and pruner.clips:  # they were cut before the prompt is told
            stay[ids == bare_model(model).config.video_token_id] = np.concatenate([c.ravel() for c in pruner.clips])
        return stay

    team = getattr(model, "team", ALONE)
    recorder = Recorder(plug, check_layers(layers, plug.layers), vision_ids, streamer, staying, before, team)
    before, plug.recorder = plug.recorder, recorder
    try:
        yield recorder
    finally:
        plug.recorder = before


def check_layers(layers: list[int] | None, count: int) -> list[int]:
    """The layers whose levels are kept, of a model of ``count``, ascending.

    Raises:
        TypeError: not integers. ValueError: layers that the model does not have.
    """
    if layers is None:
        return sorted({round(i * (count - 1) / (MAPS - 1)) for i in range(MAPS)})
    layers = sorted({whole_number(layer, "layers", 0) for layer in layers})
    if layers and layers[-1] >= count:
        raise ValueError(f"there is no layer {layers[-1]}; the model's layers are 0 to {count - 1}.")
    return layers
