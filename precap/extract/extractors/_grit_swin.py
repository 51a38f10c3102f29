"""GRIT's Swin-B: window 12, a merging after the last stage too, four maps out, no final norms.

Liu et al. 2021, "Swin Transformer"; the extra merging is Nguyen et al. 2022 (GRIT), section 3.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 12
SHIFT = WINDOW // 2
_WIDTH, _DEPTHS, _HEADS = 128, (2, 2, 18, 2), (4, 8, 16, 32)


class Swin(nn.Module):
    """(B, 3, 384, 640) to four maps: stage 2, 3 and 4 before merging, and the last merging.

    Channels 256, 512, 1024, 1024 at strides 8, 16, 32, 64. Submodules bear the names of the
    published checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = _Patches()
        widths = [_WIDTH << stage for stage in range(4)]
        self.layers = nn.ModuleList(
            _Stage(*parts) for parts in zip(widths, _DEPTHS, _HEADS, strict=True)
        )
        # The published file has a fourth merging that keeps the width: 4 * 1024 -> 1024.
        self.layers[3].downsample = _Merging(widths[3], widths[3])

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = self.patch_embed(pixels)  # (B, H/4, W/4, 128)
        maps = []
        for stage in self.layers:
            maps.append(stage(x))
            x = stage.downsample(maps[-1])  # type: ignore[operator]
        return [m.permute(0, 3, 1, 2) for m in (*maps[1:], x)]


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, _WIDTH, 4, stride=4)
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.proj(pixels).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class _Stage(nn.Module):
    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(width, heads, SHIFT if i % 2 else 0) for i in range(depth)
        )
        self.downsample: nn.Module = _Merging(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    """Attention inside windows (shifted in every second block), then a feed-forward; pre-norm."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = _WindowAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C)
        x = x + self._attend(self.norm1(x))
        hidden = F.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + self.mlp["fc2"](hidden)  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        # The map is padded after the norm, and the padding attends like anything else.
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = _strangers(rows, columns, x)
        x = _join(self.attn(_split(x), mask), rows, columns)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class _WindowAttention(nn.Module):
    """Multi-head attention inside each window, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_index(), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, windows, 144, C); mask: (windows, 144, 144) to add, or None."""
        count, windows, length, width = x.shape
        qkv = self.qkv(x).view(count, windows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # (B, windows*heads, 144, C/heads)
        bias = self.relative_position_bias_table[self.relative_position_index]  # (144, 144, heads)
        bias = bias.permute(2, 0, 1).expand(windows, -1, -1, -1)  # (windows, heads, 144, 144)
        if mask is not None:
            bias = bias + mask[:, None]
        bias = bias.flatten(0, 1).to(q.dtype)  # (windows*heads, 144, 144), the same for every image
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.view(count, windows, self.heads, length, -1).transpose(2, 3)
        return self.proj(out.reshape(count, windows, length, width))  # type: ignore[no-any-return]


class _Merging(nn.Module):
    """2 x 2 neighbours concatenated, normalised and projected: half the height and width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> (B, H/2, W/2, out)
        corners = (x[:, i::2, j::2] for j in (0, 1) for i in (0, 1))  # rows first, then columns
        return self.reduction(self.norm(torch.cat(list(corners), -1)))  # type: ignore[no-any-return]


def _split(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, H/12 * W/12, 144, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c).transpose(2, 3)
    return x.reshape(b, -1, WINDOW * WINDOW, c)


def _join(x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``_split``."""
    b, _, _, c = x.shape
    x = x.view(b, height // WINDOW, width // WINDOW, WINDOW, WINDOW, c).transpose(2, 3)
    return x.reshape(b, height, width, c)


def _strangers(rows: int, columns: int, like: Tensor) -> Tensor:
    """(windows, 144, 144): -100 between cells that the cyclic shift brought together, else 0."""
    region = torch.zeros(1, rows, columns, 1, device=like.device)
    cuts = (slice(0, -WINDOW), slice(-WINDOW, -SHIFT), slice(-SHIFT, None))
    for i, down in enumerate(cuts):
        for j, across in enumerate(cuts):
            region[:, down, across] = 3 * i + j
    region = _split(region)[0, :, :, 0]  # (windows, 144)
    return -100.0 * (region[:, None] != region[:, :, None]).to(like.dtype)


def _relative_index() -> Tensor:
    """(144, 144) row of the bias table for every pair of cells of a window."""
    cell = torch.stack(torch.meshgrid(*[torch.arange(WINDOW)] * 2, indexing="ij")).flatten(1)
    offset = cell[:, :, None] - cell[:, None] + WINDOW - 1  # (2, 144, 144)
    return offset[0] * (2 * WINDOW - 1) + offset[1]
