"""Choosing triangle layers by how much the loss depends on each layer's Middle Q-K. Source: arXiv:2507.21526."""

from __future__ import annotations

import math

import paddle

from .config import check_int


class TriangleMixAnalyzer:
    """Collects gradients of the Middle Q-K region and names the layers where it matters least.

    Attributes:
        num_layers: layers of the model.
        middle_qk_gradients: for each layer, one number for each record: the mean absolute gradient, so that positive
            and negative entries do not cancel.

    Raises:
        TypeError, ValueError: ``num_layers`` is not a positive integer.

    Source: TriangleMix (arXiv:2507.21526).
    """

    def __init__(self, num_layers: int):
        self.num_layers = check_int("num_layers", num_layers, 1)
        self.middle_qk_gradients: list[list[float]] = []
        self.reset()

    def record_middle_qk_gradient(self, layer_idx: int, gradient: paddle.Tensor) -> None:
        """Add one record of a layer; call it in the backward pass, as often as wanted.

        Args:
            layer_idx: in [0, num_layers).
            gradient: floating-point tensor of any shape, the gradient of the Middle Q-K entries.

        Raises:
            TypeError: not a floating-point tensor. ValueError: no such layer, an empty tensor, or NaN or Inf in it.
        """
        layer_idx = check_int("layer_idx", layer_idx)
        if layer_idx >= self.num_layers:
            raise ValueError(f"layer_idx must lie in [0, {self.num_layers}), got {layer_idx}.")
        if not isinstance(gradient, paddle.Tensor) or not paddle.is_floating_point(gradient):
            raise TypeError("gradient must be a floating-point paddle.Tensor.")
        if gradient.size == 0:
            raise ValueError(f"the gradient of layer {layer_idx} is empty.")
        contribution = float(gradient.detach().astype("float32").abs().mean())
        if not math.isfinite(contribution):
            raise ValueError(f"the gradient of layer {layer_idx} contains NaN or Inf.")
        self.middle_qk_gradients[layer_idx].append(contribution)

    def get_triangle_layers(self, num_triangle_layers: int) -> list[int]:
        """The layers whose records have the lowest mean, ascending by index; the lower index wins a tie.

        Raises:
            TypeError: not an integer. ValueError: negative, or more than the layers that have records: a layer that
                nobody measured is never chosen.
        """
        wanted = check_int("num_triangle_layers", num_triangle_layers)
        means = [(sum(r) / len(r), layer) for layer, r in enumerate(self.middle_qk_gradients) if r]
        if wanted > len(means):
            raise ValueError(
                f"{wanted} triangle layers are wanted, but only {len(means)} of {self.num_layers} have records."
            )
        return sorted(layer for _, layer in sorted(means)[:wanted])

    def reset(self) -> None:
        """Forget every record."""
        self.middle_qk_gradients = [[] for _ in range(self.num_layers)]
