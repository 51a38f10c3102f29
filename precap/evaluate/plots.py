"""The report's plots as inline SVG: no script, no style attribute, colours by class."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from precap.evaluate.significance import Difference, Interval

Points = Sequence[tuple[float, float]]

#: The style sheet knows so many run colours; further runs take them again.
COLOURS = 6


def histogram(
    values: Sequence[NDArray[np.float64]], intervals: Sequence[Interval | None]
) -> Markup:
    """Per-image values of each run as outlines, with its corpus value and interval below.

    Heights grow with the square root of the count, so that a spike at 0 hides nothing.
    """
    width, floor = 260.0, 56.0
    height = floor + 22 + 7 * len(intervals)
    values = [v[np.isfinite(v)] for v in values]
    top = max((float(v.max()) for v in values if len(v)), default=0.0) or 1.0
    edges = np.linspace(0, top, 25)
    counts = [np.sqrt(np.histogram(v, edges)[0] / max(1, len(v))) for v in values]
    peak = max((float(c.max()) for c in counts), default=0.0) or 1.0
    parts = [_axis(0, top, width, floor, height)]
    for run, count in enumerate(counts):
        x = 4 + (edges[:-1] + edges[1]) / top * (width - 8) - (width - 8) / 48
        y = floor - count / peak * (floor - 8)
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        area = f"4,{floor} {line} {width - 4},{floor}"
        parts.append(Markup('<polygon class="area r{}" points="{}"/>').format(run % COLOURS, area))
        parts.append(Markup('<polyline class="line r{}" points="{}"/>').format(run % COLOURS, line))
    for run, interval in enumerate(intervals):
        if interval is not None and math.isfinite(interval.value):
            parts.append(_whisker(run, interval, top, width, floor))
    return _svg(width, height, "distribution over images", parts)


def curves(name: str, runs: Sequence[Points]) -> Markup:
    """One quantity over training steps, a line per run."""
    width, height = 360.0, 180.0
    points = [[(x, y) for x, y in run if math.isfinite(x) and math.isfinite(y)] for run in runs]
    xs = [x for run in points for x, _ in run]
    ys = [y for run in points for _, y in run]
    if not xs:
        return Markup("")
    left, right, top, bottom = 46.0, width - 10, 12.0, height - 24
    across, up = _Scale(min(xs), max(xs), left, right), _Scale(min(ys), max(ys), bottom, top)
    parts = [_label(right, height - 8, "step", "end")]
    for tick in _ticks(min(ys), max(ys)):
        parts.append(_line(left, up(tick), right, up(tick)))
        parts.append(_label(left - 6, up(tick) + 3, _short(tick), "end"))
    for tick in _ticks(min(xs), max(xs))[:-1]:
        parts.append(_label(across(tick), height - 8, _short(tick), "middle"))
    for run, line in enumerate(points):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in _thinned(line))
        if len(line) == 1:
            x, y = line[0]
            parts.append(_dot(run, across(x), up(y)))
        parts.append(Markup('<polyline class="line r{}" points="{}"/>').format(run % COLOURS, path))
    return _svg(width, height, f"{name} over training steps", parts)


def forest(differences: Sequence[Difference], other: int = 1) -> dict[str, Markup]:
    """Metric -> its difference between run 0 and run ``other``, zero in the middle."""
    return {d.metric: _difference(d, other) for d in differences}


def _difference(d: Difference, other: int) -> Markup:
    width, height, middle = 180.0, 22.0, 11.0
    reach = max(abs(d.low), abs(d.high), abs(d.difference)) or 1.0
    across = _Scale(-reach, reach, 8, width - 8)
    run = other if d.difference > 0 else 0
    parts = [
        _line(across(0), 2, across(0), height - 2),
        Markup('<line class="line r{}" x1="{:.1f}" y1="{}" x2="{:.1f}" y2="{}"/>').format(
            run % COLOURS, across(d.low), middle, across(d.high), middle
        ),
        _dot(run, across(d.difference), middle),
    ]
    return _svg(width, height, f"difference in {d.metric}", parts)


def wins(d: Difference, other: int = 1) -> Markup:
    """On how many images run 0 scores higher, both score the same, run ``other`` scores higher."""
    width, height = 150.0, 14.0
    total = (d.wins_a + d.ties + d.wins_b) or 1
    left, right = d.wins_a / total * width, d.wins_b / total * width
    bar = Markup('<rect class="{}" x="{:.1f}" y="2" width="{:.1f}" height="10"/>')
    parts = [
        bar.format("tie", 0, width),
        bar.format("r0", 0, left),
        bar.format(f"r{other % COLOURS}", width - right, right),
    ]
    return _svg(width, height, f"{d.wins_a} won, {d.ties} tied, {d.wins_b} lost", parts)


def _whisker(run: int, interval: Interval, top: float, width: float, floor: float) -> Markup:
    across = _Scale(0, top, 4, width - 4)
    low, high = across(interval.low), across(interval.high)
    y = floor + 8 + 7 * run
    return Markup(
        '<line class="whisker r{0}" x1="{1:.1f}" y1="{2}" x2="{3:.1f}" y2="{2}"/>'
    ).format(run % COLOURS, low, y, max(high, low + 1)) + _dot(run, across(interval.value), y)


def _axis(low: float, high: float, width: float, floor: float, height: float) -> Markup:
    across = _Scale(low, high, 4, width - 4)
    labels = []
    for tick in _ticks(low, high, 4):
        side = "start" if across(tick) < 12 else "end" if across(tick) > width - 14 else "middle"
        labels.append(_label(across(tick), height - 3, _short(tick), side))
    return _line(4, floor, width - 4, floor) + Markup("").join(labels)


def _svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        f"{width:g}", f"{height:g}", title, Markup("").join(parts)
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="rule" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        x1, y1, x2, y2
    )


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )


def _dot(run: int, x: float, y: float) -> Markup:
    return Markup('<circle class="dot r{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
        run % COLOURS, x, y
    )


class _Scale:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.slope = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.slope


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between low and high."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * about >= span)
    first = math.ceil(low / step - 1e-9)
    count = math.floor((high - first * step) / step + 1e-9) + 1
    return [(first + i) * step for i in range(max(1, count))]


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


def _thinned(line: Points, most: int = 600) -> Points:
    """At most ``most`` points; the last one stays."""
    if len(line) <= most:
        return line
    picks = np.unique(np.linspace(0, len(line) - 1, most).round().astype(int))
    return [line[i] for i in picks]
