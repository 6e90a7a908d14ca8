"""Tensors for the GPU benchmarks (torch): q [1, H, L, D], k and v [1, Hkv, L, D], contiguous."""

import torch
import torch.nn.functional as F


def structured(length, heads, kv_heads, dim, dtype, seed=0):
    """Video-like: keys drift along the sequence with noise on top, queries look for keys near their own position, the
    first four keys are stronger (an attention sink)."""
    g = torch.Generator(device="cuda").manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, device="cuda", generator=g)

    anchors = randn(kv_heads, dim, max(1, length // 64))
    k = F.interpolate(anchors, size=length, mode="linear").transpose(1, 2)[None] + 0.5 * randn(1, kv_heads, length, dim)
    q = k.repeat_interleave(heads // kv_heads, 1) + 0.7 * randn(1, heads, length, dim)
    k[:, :, :4] *= 2
    v = randn(1, kv_heads, length, dim)
    return tuple(x.to(dtype).contiguous() for x in (q, k, v))


def uniform(length, heads, kv_heads, dim, dtype, seed=0):
    """Independent normal numbers: attention without structure, the worst case for any selection."""
    g = torch.Generator(device="cuda").manual_seed(seed)
    shapes = ((1, heads, length, dim), (1, kv_heads, length, dim), (1, kv_heads, length, dim))
    return tuple(torch.randn(*shape, device="cuda", generator=g).to(dtype) for shape in shapes)


def frames(length, heads, kv_heads, dim, dtype, seed=0, frame=1024):
    """Frames of a still scene with cuts: each token looks like the one a frame earlier, values too; queries look for
    their own place in all frames of their scene (eight frames)."""
    g = torch.Generator(device="cuda").manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, device="cuda", generator=g)

    scenes = -(-length // (frame * 8))
    base = randn(2, kv_heads, scenes, frame // 16, dim).repeat_interleave(16, 3)
    base = base[:, :, :, None].expand(-1, -1, -1, 8, -1, -1).reshape(2, 1, kv_heads, -1, dim)[:, :, :, :length]
    k, v = base[0] + 0.4 * randn(1, kv_heads, length, dim), base[1] + 0.4 * randn(1, kv_heads, length, dim)
    q = k.repeat_interleave(heads // kv_heads, 1) + 0.7 * randn(1, heads, length, dim)
    return tuple(x.to(dtype).contiguous() for x in (q, k, v))


def field(grid, heads, dim, dtype, correlation=8.0, noise=0.3, text=0, seed=0):
    """Video-like in three dimensions: q and k [1, heads, text + L, dim] are random waves over the grid's L tokens in
    raster order, alike over about ``correlation`` tokens; v are others; ``text`` independent tokens come first."""
    g = torch.Generator(device="cuda").manual_seed(seed)
    axes = [torch.arange(n, device="cuda", dtype=torch.float32) for n in grid]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) / correlation

    def randn(*shape):
        return torch.randn(*shape, device="cuda", generator=g)

    def waves():
        phase = 2 * torch.pi * torch.rand(dim, device="cuda", generator=g)
        return 2**0.5 * torch.cos(cells @ randn(3, dim) + phase)

    def tokens(base):
        return torch.cat([randn(text, dim), base + noise * randn(len(cells), dim)]).to(dtype)

    shared = [waves() for _ in range(heads)]
    q, k = (torch.stack([tokens(base) for base in shared])[None] for _ in "qk")
    return q, k, torch.stack([tokens(waves()) for _ in range(heads)])[None]


INPUTS = {"structured": structured, "uniform": uniform, "frames": frames}
