"""What two processes of a test need to be ranks of one model on a CPU: Paddle's gloo lacks four things of NCCL's."""

import paddle
from paddle.distributed import collective
from paddle.distributed.fleet.layers.mpu import mp_ops


def _summed(tensor, group=None, **_):
    paddle.distributed.all_reduce(tensor, group=group)
    return tensor


def _concatenated(tensor, group=None):
    parts: list = []
    paddle.distributed.all_gather(parts, tensor.contiguous(), group=group)
    return paddle.concat(parts, -1)


def use_gloo() -> None:
    """Put what gloo can do in the place of what Paddle does on GPUs: in this process, for good."""
    paddle.Tensor.cuda = lambda tensor, *_: tensor  # weights are sent as GPU tensors
    mp_ops._mp_allreduce = _summed
    mp_ops._c_identity = collective._c_identity = lambda tensor, group=None, **_: tensor
    collective._c_concat = _concatenated
