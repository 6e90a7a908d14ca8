"""Applying a token order to [B, H, L, D] tensors, and undoing it exactly; which backend does it, and index tables."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from ..config import BACKENDS

MAX_TABLES = 64
_TABLES: OrderedDict[tuple, object] = OrderedDict()
_LOCK = threading.Lock()


def backend_of(x, name: str = "auto"):
    """The module whose functions move x's tokens: ``kernels`` for a CUDA tensor and ``eager`` elsewhere, or by name.

    Args:
        x: a paddle.Tensor, or a torch.Tensor for ``kernels``.
        name: ``"auto"``, ``"triton"`` or ``"eager"``.

    Raises:
        ValueError: another name. TypeError: a tensor of another framework for Paddle's ops.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}.")
    is_paddle = hasattr(x, "place")
    on_gpu = x.place.is_gpu_place() if is_paddle else bool(getattr(x, "is_cuda", False))
    if name == "triton" or (name == "auto" and on_gpu):
        from .. import kernels

        return kernels
    if not is_paddle:
        raise TypeError(f"Paddle's ops need a paddle.Tensor, got {type(x).__name__}; on a GPU use backend='triton'.")
    from .. import eager

    return eager


def device_table(key: tuple, make: Callable[[], np.ndarray], backend, like):
    """The order that ``make`` gives as int32 on ``like``'s device; copied there once for all layers.

    key: what the order depends on, device and backend apart. The first call with a key makes the host wait.
    """
    where = like.place if hasattr(like, "place") else like.device
    key = (*key, backend.__name__, type(like).__module__, str(where))
    with _LOCK:
        if key not in _TABLES:
            _TABLES[key] = backend.token_index(make(), like)
            if len(_TABLES) > MAX_TABLES:
                _TABLES.popitem(last=False)
        _TABLES.move_to_end(key)
        return _TABLES[key]


def with_text(order: np.ndarray, text_length: int, text_first: bool, text_last_in_order: bool) -> np.ndarray:
    """The order of all tokens, int64 [L], from that of the vision tokens alone; text keeps its own order."""
    vision = order + (text_length if text_first else 0)
    text = np.arange(text_length, dtype=np.int64) + (0 if text_first else len(order))
    parts = [text, vision] if text_first and not text_last_in_order else [vision, text]
    return np.concatenate(parts)


class Permutation:
    """One order for the queries and one for the keys and values.

    Args:
        q_order, kv_order: integer tensors, [L] for all heads or [B, H, L]; token ``order[i]`` goes to place i.
        backend: the module that moves tokens, of ``backend_of``.
    """

    def __init__(self, q_order, kv_order, backend) -> None:
        self.q_order, self.kv_order, self._backend = q_order, kv_order, backend

    def permute(self, x):
        """x [B, H, L, D] in the order of the queries."""
        return self._backend.permute_tokens(x, self.q_order)

    def permute_kv(self, x):
        """x [B, Hkv, L, D] in the order of the keys."""
        return self._backend.permute_tokens(x, self.kv_order)

    def restore(self, out, heads_last: bool = False):
        """Undo ``permute``: [B, H, L, D], or [B, L, H, D] with ``heads_last``, in the model's order, bitwise."""
        return self._backend.restore_tokens(out, self.q_order, heads_last=heads_last)
