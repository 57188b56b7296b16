"""Loss curves over each other, as an SVG of one's own: no plotting library for one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 760, 380, 46
COLOURS = ("#0b6e4f", "#c8553d", "#3a506b", "#e0a030", "#7b4397", "#555555", "#1b98e0")
DASHES = ("", "8 4", "3 3", "10 3 2 3", "1 4", "6 2", "2 6")


def loss_curves(curves: Mapping[str, Sequence[float]]) -> str:
    """An SVG with one line a contestant.

    Args:
        curves: the losses of each, a step each.
    """
    values = [value for losses in curves.values() for value in losses]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = (high - low) or 1.0
    steps = max((len(losses) for losses in curves.values()), default=1)

    def at(step: int, value: float) -> tuple[float, float]:
        across = MARGIN + (WIDTH - 2 * MARGIN) * step / max(1, steps - 1)
        return across, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / span

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="20">training loss by optimizer step, the same rows in the same order</text>',
    ]
    for value in (low, low + span / 2, high):
        _, y = at(0, value)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="4" y="{y + 4:.1f}">{value:.3f}</text>')
    for place, (name, losses) in enumerate(curves.items()):
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(step, value) for step, value in enumerate(losses)))
        line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<polyline {line} points="{points}"/>')
        y = 40 + 16 * place
        parts.append(
            f'<line x1="{WIDTH - 280}" x2="{WIDTH - 250}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"'
        )
        parts.append(f' stroke-dasharray="{dash}"/><text x="{WIDTH - 244}" y="{y + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])
