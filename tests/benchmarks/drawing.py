"""The figures of the pipeline as a picture: how many commands, and where the time goes."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.ground import middle

if TYPE_CHECKING:
    from tests.benchmarks.pipeline import Anatomy, Figures

OURS, THEIRS, FLOOR = "#1f6f8b", "#c8c8c8", "#e9d8a6"
SHADES = ("#0b3c49", "#1f6f8b", "#e09f3e", "#9cc5a1", "#49a078", "#8d99ae")
WAITING = "#e5e5e5"


def draw(
    path: str,
    figures: "Sequence[Figures]",
    anatomies: "Sequence[Anatomy]",
    told: Mapping[str, str],
) -> None:
    """Two pictures above one another: everybody's commands per second, and our stages."""
    heights = [0.34 * len(figures) + 1, 0.6 * max(1, len(anatomies)) + 1.4]
    size = (11, sum(heights) + 0.6)
    figure = Figure(figsize=size)
    above, below = figure.subplots(2, 1, height_ratios=heights)
    _rates(above, figures)
    _stages(below, anatomies)
    machine = ", ".join(f"{name} {value}" for name, value in told.items())
    figure.text(0.01, 0.004, "\n".join(textwrap.wrap(machine, 180)), fontsize=6)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path)


def _rates(axes: Axes, figures: "Sequence[Figures]") -> None:
    names = [each.contender.name for each in figures]
    rates = [each.rate for each in figures]
    colours = [_colour(name) for name in names]
    least = [
        rate - rate * middle(each.wall) / max(each.wall)
        for rate, each in zip(rates, figures, strict=True)
    ]
    most = [
        rate * middle(each.wall) / min(each.wall) - rate
        for rate, each in zip(rates, figures, strict=True)
    ]
    axes.barh(names, rates, color=colours, xerr=[least, most], ecolor="#777777", capsize=2)
    for place, rate in enumerate(rates):
        axes.annotate(
            f"{rate:,.0f}",
            (rate + most[place], place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title("commands per second, one process (median, least to most)", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _colour(name: str) -> str:
    if name.startswith("b24sync"):
        return OURS
    return FLOOR if name.startswith("floor") else THEIRS


def _stages(axes: Axes, anatomies: "Sequence[Anatomy]") -> None:
    for place, anatomy in enumerate(anatomies):
        left = 0.0
        for shade, (name, stage) in zip(SHADES, anatomy.stages.items(), strict=True):
            cpu = stage.cpu * 1e3 / anatomy.batches
            axes.barh(place, cpu, left=left, color=shade, label=None if place else f"CPU: {name}")
            left += cpu
        for name, hatch in (("database", "..."), ("portal", "xxx")):
            waiting = sum(
                (stage.wall - stage.cpu) * 1e3 / anatomy.batches
                for title, stage in anatomy.stages.items()
                if title.startswith("send") == (name == "portal")
            )
            label = None if place else f"waiting: {name}"
            axes.barh(
                place,
                waiting,
                left=left,
                color=WAITING,
                hatch=hatch,
                edgecolor="#aaaaaa",
                label=label,
            )
            left += waiting
    axes.set_yticks(range(len(anatomies)), [anatomy.name for anatomy in anatomies])
    axes.invert_yaxis()
    axes.set_title("where the time of a batch of 50 goes, ms", loc="left")
    axes.legend(
        fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.12), frameon=False
    )
    axes.spines[["top", "right"]].set_visible(False)
