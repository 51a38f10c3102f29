"""GRIT's region branch: 150 queries read four maps by deformable attention, in plain PyTorch.

Zhu et al. 2021, "Deformable DETR" (attention, iterative box refinement); Nguyen et al. 2022 (GRIT):
no encoder, no level embedding. Submodules bear the names of the published checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, LEVELS, POINTS, QUERIES, LAYERS = 512, 8, 4, 4, 150, 6


class Decoder(nn.Module):
    """Maps of 512 channels and their padding to regions (B, 150, 512) and boxes (B, 150, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder_layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.reference_points = nn.Linear(WIDTH, 2)
        self.bbox_embed = nn.ModuleList(_Boxes() for _ in range(LAYERS + 1))
        self.query_embed = nn.Embedding(QUERIES, 2 * WIDTH)

    def start(self) -> Tensor:
        """(150, 4) boxes before the first layer: cx, cy, w, h in 0..1."""
        position, content = torch.split(self.query_embed.weight, WIDTH, 1)
        centre = self.reference_points(position).sigmoid()  # (150, 2)
        return _refine(self.bbox_embed[0](content), centre)

    def forward(self, maps: list[Tensor], padding: list[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: (B, 512, H, W) each; padding: (B, H, W) bool each, True where there is no image.

        Boxes are cx, cy, w, h relative to the image without its padding.
        """
        count = len(maps[0])
        position, content = torch.split(self.query_embed.weight, WIDTH, 1)
        position = position.expand(count, -1, -1)
        x = content.expand(count, -1, -1)  # (B, 150, 512)
        boxes = self.start().expand(count, -1, -1)  # (B, 150, 4)
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)  # (B, sum HW, 512)
        hidden = torch.cat([p.flatten(1) for p in padding], 1)[..., None]  # (B, sum HW, 1)
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        real = torch.stack([_real_part(p) for p in padding], 1)  # (B, levels, 2)
        for layer, refine in zip(self.decoder_layers, self.bbox_embed[1:], strict=True):
            on_canvas = boxes[:, :, None] * real.repeat(1, 1, 2)[:, None]  # (B, 150, levels, 4)
            x = layer(x, position, on_canvas, memory, hidden, sizes)
            boxes = _refine(refine(x), boxes)
        return x, boxes


class _Layer(nn.Module):
    """Self-attention, deformable attention, feed-forward; post-norm, numbered as in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.cross_attn = _DeformableAttention()
        self.linear1, self.linear2 = nn.Linear(WIDTH, 1024), nn.Linear(1024, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        boxes: Tensor,
        memory: Tensor,
        hidden: Tensor,
        sizes: list[tuple[int, int]],
    ) -> Tensor:
        query = x + position
        x = self.norm2(x + self.self_attn(query, query, x, need_weights=False)[0])
        x = self.norm1(x + self.cross_attn(x + position, boxes, memory, hidden, sizes))
        return self.norm3(x + self.linear2(self.linear1(x).relu()))  # type: ignore[no-any-return]


class _DeformableAttention(nn.Module):
    """Each query reads 4 learned points per head and level, around its box."""

    def __init__(self) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(WIDTH, HEADS * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(WIDTH, HEADS * LEVELS * POINTS)
        self.value_proj = nn.Linear(WIDTH, WIDTH)
        self.output_proj = nn.Linear(WIDTH, WIDTH)

    def forward(
        self,
        query: Tensor,
        boxes: Tensor,
        memory: Tensor,
        hidden: Tensor,
        sizes: list[tuple[int, int]],
    ) -> Tensor:
        b, q, _ = query.shape
        value = self.value_proj(memory).masked_fill(hidden, 0)  # (B, sum HW, 512)
        offset = self.sampling_offsets(query).view(b, q, HEADS, LEVELS, POINTS, 2)
        share = self.attention_weights(query).view(b, q, HEADS, LEVELS * POINTS).softmax(-1)
        share = share.transpose(1, 2).reshape(b * HEADS, 1, q, LEVELS * POINTS)
        centre, size = torch.split(boxes[:, :, None, :, None], 2, -1)  # (B, Q, 1, levels, 1, 2)
        where = 2 * (centre + offset / POINTS * size * 0.5) - 1  # grid_sample counts -1..1
        where = where.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B*heads, levels, Q, points, 2)
        read = []
        for level, part in enumerate(torch.split(value, [h * w for h, w in sizes], 1)):
            part = part.transpose(1, 2).reshape(b * HEADS, WIDTH // HEADS, *sizes[level])
            at = where[:, level].to(part.dtype)
            read.append(F.grid_sample(part, at, padding_mode="zeros", align_corners=False))
        out = (torch.cat(read, -1) * share).sum(-1)  # (B*heads, 64, Q)
        return self.output_proj(out.view(b, WIDTH, q).transpose(1, 2))  # type: ignore[no-any-return]


class _Boxes(nn.Module):
    """Three linear layers to a box correction."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, out) for out in (WIDTH, WIDTH, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[1](self.layers[0](x).relu()).relu()
        return self.layers[2](x)  # type: ignore[no-any-return]


def _refine(correction: Tensor, boxes: Tensor) -> Tensor:
    """sigmoid(correction + logit(boxes)); ``boxes`` may be centres only (..., 2)."""
    inside = boxes.float().clamp(0, 1)
    logit = (inside.clamp(min=1e-5) / (1 - inside).clamp(min=1e-5)).log()
    logit = F.pad(logit, (0, 4 - logit.shape[-1]))
    return (correction.float() + logit).sigmoid()


def _real_part(padding: Tensor) -> Tensor:
    """(B, H, W) bool to (B, 2): the share of the width and of the height that is image."""
    _, height, width = padding.shape
    across, down = (~padding[:, 0]).sum(1) / width, (~padding[:, :, 0]).sum(1) / height
    return torch.stack([across, down], 1)
