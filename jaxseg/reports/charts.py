"""Charts as SVG: axes, lines, dots; every mark has a <title> that describes it."""

import dataclasses
import math
from collections.abc import Sequence

from jaxseg.reports.page import text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 300, 58, 24, 10, 44  # pixels of a chart and of its margins


@dataclasses.dataclass(frozen=True)
class ChartAxis:
    """An axis.

    Attributes:
      label: the label, with the unit.
      low, high: the ends of the axis.
      log: logarithmic; numbers of 0 and below have a separate position left of (below) the low end.
      zero: whether there are such numbers.
      whole: the values are whole numbers, and so are the ticks.
    """

    label: str
    low: float
    high: float
    log: bool = False
    zero: bool = False
    whole: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value, 0..1 along the axis."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        first = 0.09 if self.zero else 0.0
        if value <= 0:
            return 0.0
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return first + (1 - first) * share

    def ticks(self) -> list[float]:
        """Return round numbers between the ends."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            step = max(1, math.ceil(len(decades) / 6))
            return [0.0] * self.zero + [10.0**d for d in decades][::step]
        step = _round_step((self.high - self.low) / 5)
        if self.whole:
            step = max(1.0, step if step % 1 == 0 else 2 * step)  # 2.5 becomes 5
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_of(
    values: Sequence[float],
    label: str,
    *,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
) -> ChartAxis:
    """Return an axis for these values; `low` and `high` fix an end; `whole` numbers get whole ticks."""
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    if log:
        positive = [v for v in known if v > 0] or [1.0]
        first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
        return ChartAxis(label, 10.0**first, 10.0 ** max(last, first + 1), True, any(v <= 0 for v in known))
    first, last = min(known) if low is None else low, max(known) if high is None else high
    if last <= first:
        last = first + (abs(first) or 1.0)
    step = _round_step((last - first) / 5)
    first = math.floor(first / step + 1e-9) * step if low is None else low
    return ChartAxis(label, first, math.ceil(last / step - 1e-9) * step if high is None else high, whole=whole)


class Chart:
    """A chart with two axes.

    Args:
      label: what the chart shows, for screen readers.
    """

    def __init__(self, label: str, x: ChartAxis, y: ChartAxis):
        self.label, self.x, self.y, self._marks = label, x, y, list[str]()

    def line(self, points: Sequence[tuple[float, float]], colour: str, name: str, *, dashed: bool = False) -> None:
        """Add a line through points in their order."""
        known = [f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points if math.isfinite(x) and math.isfinite(y)]
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._marks.append(
            f'<polyline points="{" ".join(known)}" fill="none" stroke="{colour}" stroke-width="2"{dash}>'
            f"<title>{text(name)}</title></polyline>"
        )

    def dot(self, x: float, y: float, colour: str, title: str, *, radius: float = 4, opacity: float = 0.65) -> None:
        """Add a dot, unless one of its numbers is missing."""
        if math.isfinite(x) and math.isfinite(y):
            self._marks.append(
                f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius:g}" fill="{colour}" fill-opacity="{opacity}" '
                f'stroke="{colour}"><title>{text(title)}</title></circle>'
            )

    def diagonal(self) -> None:
        """Add the line on which both axes have the same value."""
        low, high = max(self.x.low, self.y.low), min(self.x.high, self.y.high)
        ends = f'x1="{self._x(low):.1f}" y1="{self._y(low):.1f}" x2="{self._x(high):.1f}" y2="{self._y(high):.1f}"'
        self._marks.append(f'<line {ends} class="axis" stroke-dasharray="3 4"/>')

    def svg(self) -> str:
        """Return the chart as an <svg> element."""
        right, lower = WIDTH - RIGHT, HEIGHT - BOTTOM
        frame = []
        for t in self.y.ticks():
            y = self._y(t)
            frame.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            frame.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(t)}</text>')
        for t in self.x.ticks():
            x = self._x(t)
            frame.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{lower}"/>')
            frame.append(f'<text x="{x:.1f}" y="{lower + 16}" text-anchor="middle">{_number(t)}</text>')
        frame.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{lower}H{right}"/>')
        frame.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{text(self.x.label)}</text>')
        middle = (TOP + lower) / 2
        frame.append(f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">{text(self.y.label)}</text>')
        return svg(WIDTH, HEIGHT, self.label, frame + self._marks)

    def _x(self, value: float) -> float:
        return LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)


def svg(width: int, height: int, label: str, marks: Sequence[str]) -> str:
    """Return a drawing of this size in pixels, which shrinks on narrow pages."""
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{text(label)}">{"".join(marks)}</svg>'


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def _number(value: float) -> str:
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f'{"" if mantissa == "1" else mantissa + "·"}10<tspan dy="-4" font-size="9">{int(exponent)}</tspan>'
    return f"{value:.6g}"
