"""Charts of a sweep: throughput and latency by size, as bars on a terminal or as an SVG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from stoker.advice.measure import Measurement

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 360, 64, 56
_THROUGHPUT, _LATENCY = "#1f6feb", "#d1242f"


def bar(value: float, most: float, width: int) -> str:
    """A bar of up to `width` characters, in eighths of a character."""
    eighths = round(value / most * width * 8) if most > 0 else 0
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def svg(title: str, measurements: Sequence[Measurement], chosen: Measurement | None) -> str:
    """Throughput (left axis) and p95 latency (right axis) over the size, on a logarithmic scale; the chosen size is marked."""
    sizes = [m.setting.size for m in measurements]
    low, high = math.log2(min(sizes)), math.log2(max(sizes))
    most = max(m.throughput for m in measurements) or 1.0
    slowest = max(m.p95 for m in measurements) or 1.0
    plot_width, plot_height = _WIDTH - 2 * _LEFT, _HEIGHT - 2 * _TOP

    def x(size: int) -> float:
        return _LEFT + plot_width * ((math.log2(size) - low) / (high - low) if high > low else 0.5)

    def y(share: float) -> float:
        return _TOP + plot_height * (1 - share)

    def line(points: list[tuple[float, float]], colour: str) -> str:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        dots = "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="24" text-anchor="middle" font-size="15">{escape(title)}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = y(share)
        parts += [
            f'<line x1="{_LEFT}" y1="{at}" x2="{_WIDTH - _LEFT}" y2="{at}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end" fill="{_THROUGHPUT}">{most * share:.3g}</text>',
            f'<text x="{_WIDTH - _LEFT + 6}" y="{at + 4}" fill="{_LATENCY}">{slowest * share:.3g}</text>',
        ]
    for size in sizes:
        parts.append(f'<text x="{x(size)}" y="{_HEIGHT - _TOP + 18}" text-anchor="middle">{size}</text>')
    if chosen is not None:
        at = x(chosen.setting.size)
        parts.append(
            f'<line x1="{at}" y1="{_TOP}" x2="{at}" y2="{_HEIGHT - _TOP}" stroke="#888" stroke-dasharray="4 3"/>'
        )
        parts.append(f'<text x="{at}" y="{_TOP - 6}" text-anchor="middle">recommended</text>')
    parts += [
        line([(x(m.setting.size), y(m.throughput / most)) for m in measurements], _THROUGHPUT),
        line([(x(m.setting.size), y(m.p95 / slowest)) for m in measurements], _LATENCY),
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(measurements[0].setting.kind)}</text>',
        f'<text x="{_LEFT}" y="{_TOP - 20}" text-anchor="middle" fill="{_THROUGHPUT}">inputs/s</text>',
        f'<text x="{_WIDTH - _LEFT}" y="{_TOP - 20}" text-anchor="middle" fill="{_LATENCY}">p95, s</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
