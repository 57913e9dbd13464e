"""How many times better than Celery at its defaults, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.lineup import CONTESTANTS, OURS, THEIRS
from benchmarks.run import Measured

_COLOURS = {OURS: "#1f6f54", "celery-tuned": "#b8c480", "bare": "#b9b9b9"}


def draw(results: Sequence[Measured], contestants: Sequence[str], caption: str, path: Path) -> bool:
    """Write a PNG with a group of bars for each figure; ``False`` if nothing was measured beside Celery."""
    shown = [measured for measured in results if measured.ratio() is not None]
    if not shown:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot  # chooses how to draw when it is imported

    bars = [name for name in contestants if name != THEIRS]
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.62 * len(shown)), layout="constrained")
    height = 0.8 / len(bars)
    for place, name in enumerate(bars):
        for line, measured in enumerate(shown):
            ratio = measured.ratio(name)
            if ratio is None:
                continue
            at = line + (place - (len(bars) - 1) / 2) * height
            axes.barh(at, ratio - 1, height * 0.9, left=1, color=_COLOURS.get(name), label=CONTESTANTS[name].title)
            axes.annotate(
                f"{ratio:.1f} ×", (max(ratio, 1), at), (3, 0), textcoords="offset points", va="center", fontsize=7
            )
    for line, measured in enumerate(shown):
        if measured.figure.ratio is not None:
            goal = measured.figure.ratio
            axes.plot([goal, goal], [line - 0.4, line + 0.4], color="black", linewidth=1.2, label="to be reached")
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g} ×")
    axes.set_yticks(range(len(shown)), [measured.figure.name for measured in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times better than Celery at its defaults")
    axes.set_title(caption, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
