"""Draw the dashboard from a Prometheus's answers, where there is no Grafana: ``picture.py <Prometheus> <file.png>``.

    python deploy/grafana/picture.py http://127.0.0.1:9090 docs/images/dashboard.png --minutes 5

The panels, their places, queries and legends are those of dashboards/gatelodge.json; the drawing is matplotlib's
(``uv sync --group pictures``). So it shows what the queries give, not what Grafana looks like.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt

DASHBOARD = Path(__file__).parent / "dashboards" / "gatelodge.json"
BACK, PANEL, INK, FAINT = "#111217", "#181b1f", "#d8d9da", "#3a3d42"
COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#fade2a", "#96d98d", "#ffb357")
RATE_INTERVAL = "1m"
CELL_WIDTH, CELL_HEIGHT = 0.83, 0.36


class Prometheus:
    """A Prometheus, asked for the last `minutes`."""

    def __init__(self, address: str, minutes: float) -> None:
        self._address = address.rstrip("/")
        self.end = time.time()
        self.start = self.end - 60 * minutes

    def series(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that `expression`, as a panel has it, gives."""
        for name, value in (("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", RATE_INTERVAL)):
            expression = expression.replace(name, value)
        asked = {"query": expression, "start": self.start, "end": self.end, "step": (self.end - self.start) / 240}
        url = f"{self._address}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def shown(value: float, unit: str) -> str:
    """Spell a value in its unit, as short as Grafana does."""
    match unit:
        case "percentunit":
            return f"{100 * value:.2f} %"
        case "bytes":
            return f"{value / 2**20:.0f} MiB"
        case "s":
            return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "reqps" | "ops":
            return f"{value:.3g}/s"
    return f"{value:.3g}"


def legend(template: str, labels: dict[str, str]) -> str:
    """Fill in a legend's ``{{label}}``."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template.rpartition("/")[2] if "/" in template else template


def draw_stat(axes: plt.Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    """Draw one number, in the colour of its threshold."""
    defaults = panel["fieldConfig"]["defaults"]
    found = prometheus.series(panel["targets"][0]["expr"])
    values = [float(value) for series in found for _, value in series["values"]]
    axes.set_axis_off()
    text, colour = "no data", FAINT
    if values and isfinite(values[-1]):
        colours = [step["color"] for step in defaults["thresholds"]["steps"] if values[-1] >= (step["value"] or 0)]
        colour = {"green": "#73bf69", "red": "#f2495c", "yellow": "#f2cc0c", "blue": "#8ab8ff"}[colours[-1]]
        words = {key: word["text"] for entry in defaults["mappings"] for key, word in entry["options"].items()}
        text = words.get(f"{values[-1]:.0f}") or shown(values[-1], defaults["unit"])
    axes.text(0.5, 0.42, text, ha="center", va="center", fontsize=19, color=colour, transform=axes.transAxes)


def draw_graph(axes: plt.Axes, panel: dict[str, Any], prometheus: Prometheus) -> None:
    """Draw a panel's series over time."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    asked = [(target, series) for target in panel["targets"] for series in prometheus.series(target["expr"])]
    lines = [(target, series) for target, series in asked if any(value != "NaN" for _, value in series["values"])]
    for number, (target, series) in enumerate(lines):
        when = [datetime.fromtimestamp(float(at), UTC) for at, _ in series["values"]]
        values = [float(value) for _, value in series["values"]]
        colour = COLOURS[number % len(COLOURS)]
        last = shown(values[-1], unit) if isfinite(values[-1]) else ""
        name = f"{legend(target['legendFormat'], series['metric'])}  {last}"
        axes.plot(when, values, color=colour, linewidth=1.1, label=name)
    axes.set_xlim(datetime.fromtimestamp(prometheus.start, UTC), datetime.fromtimestamp(prometheus.end, UTC))
    axes.set_ylim(bottom=0)
    axes.grid(color=FAINT, linewidth=0.4)
    axes.tick_params(colors=INK, labelsize=7, length=0)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=3, maxticks=7))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))
    for side in axes.spines.values():
        side.set_visible(False)
    if lines:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=6.5, frameon=False, labelcolor=INK
        )
    else:
        axes.text(0.5, 0.5, "no data", ha="center", color=INK, transform=axes.transAxes)


def draw(prometheus: Prometheus, file: Path) -> None:
    """Draw every panel in its place."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * CELL_WIDTH, height * CELL_HEIGHT), facecolor=BACK)
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - at["y"] / height
        if panel["type"] == "row":
            figure.text(left + 0.006, top - 0.7 / height, panel["title"], color=INK, fontsize=11, weight="bold")
            continue
        graph = panel["type"] == "timeseries"
        frame = (left + 0.003, top - (at["h"] - 0.1) / height, at["w"] / 24 - 0.006, (at["h"] - 0.2) / height)
        back = plt.Rectangle(frame[:2], frame[2], frame[3], facecolor=PANEL, transform=figure.transFigure, zorder=-1)
        figure.add_artist(back)
        figure.text(left + 0.008, top - 0.75 / height, panel["title"], color=INK, fontsize=8)
        low, used = (2.6, at["h"] - 3.9) if graph else (0.2, at["h"] - 1)
        axes = figure.add_axes(
            (left + (0.03 if graph else 0.005), top - (at["h"] - low) / height, at["w"] / 24 - 0.042, used / height),
            facecolor=PANEL,
        )
        (draw_graph if graph else draw_stat)(axes, panel, prometheus)
    figure.savefig(file, dpi=80, facecolor=BACK)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus")
    parser.add_argument("file", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    options = parser.parse_args()
    draw(Prometheus(options.prometheus, options.minutes), options.file)


if __name__ == "__main__":
    main()
