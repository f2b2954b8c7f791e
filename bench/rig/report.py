"""Medians with their spread, the table, the comparison with the last committed result, the plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
LATEST = RESULTS / "latest.json"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Target:
    """What a row must be: at least `least`, or at most `most`."""

    text: str
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def bound(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else ""


TARGETS = {
    "getuser_over_floor": Target("GetUser, repeated tokens, 64 in flight ÷ hello floor (calls/s)", least=0.80),
    "getuser_fresh_over_floor": Target("GetUser, a fresh token each call ÷ floor", least=0.50),
    "getuser_over_fastapi_bare": Target("GetUser ÷ FastAPI + asyncpg bare", least=1.5),
    "getuser_over_fastapi_full": Target("GetUser ÷ FastAPI + asyncpg with logs and traces", least=3.5),
    "login_over_argon2_limit": Target("Login ÷ argon2 limit (all cores)", least=0.90),
    "storm_p99_over_idle": Target("cheap-call p99 in a login storm at 4 × capacity ÷ idle", most=1.2),
    "cpu_2_workers_over_1": Target("CPU per call, 2 workers ÷ 1 worker", most=1.05),
    "rss_idle_mib": Target("RSS of an idle worker, MiB", most=100),
    "rss_growth": Target("RSS after 100 000 calls with 10 % cancelled ÷ after 10 000", most=1.05),
    "cold_start_s": Target("cold start to SERVING, s", most=1.5),
    "hello_ours_over_floor": Target("hello on the service's own server class ÷ floor, which is grpc.aio's"),
    "getuser_over_hello_ours": Target("GetUser ÷ hello on the service's own server class"),
    "getme_over_floor": Target("GetMe, repeated tokens ÷ floor"),
    "introspect_over_floor": Target("IntrospectToken ÷ floor"),
    "listusers_over_floor": Target("ListUsers, a page of 50 of 10 000 ÷ floor"),
    "createuser_over_floor": Target("CreateUser without password ÷ floor"),
    "refresh_over_floor": Target("Refresh ÷ floor"),
    "storm_p50_over_idle": Target("cheap-call p50 in the login storm ÷ idle"),
    "rss_loaded_mib": Target("RSS under 64 calls in flight, MiB"),
    "rss_per_connection_kib": Target("RSS per idle connection (of 2 000), KiB"),
    "rss_per_hash_mib": Target("RSS per hash in flight, MiB"),
    "floor_per_s": Target("the floor itself, calls/s"),
    "argon2_per_s": Target("the argon2 limit itself, hashes/s"),
}


@dataclass
class Report:
    """What was measured."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: float) -> None:
        self.samples.setdefault(key, []).append(value)

    def leave_out(self, key: str, why: str) -> None:
        self.left_out[key] = why

    @property
    def rows(self) -> dict[str, float]:
        return {key: round(statistics.median(values), 4) for key, values in self.samples.items()}

    def table(self) -> str:
        """Return one line a row: the median, its spread, the target, the last committed result."""
        before = committed()
        lines = [f"{'row':<62}{'median':>10}{'min':>10}{'max':>10}  {'must be':<9}{'':<5}{'before':>10}"]
        for key, value in self.rows.items():
            target, values = TARGETS[key], self.samples[key]
            verdict = "" if not target.bound else "ok" if target.met(value) else "MISS"
            last = f"{before[key]:>10.3f}" if key in before else ""
            lines.append(
                f"{target.text:<62}{value:>10.3f}{min(values):>10.3f}{max(values):>10.3f}"
                f"  {target.bound:<9}{verdict:<5}{last}"
            )
        lines += [f"{TARGETS[key].text:<62}left out: {why}" for key, why in self.left_out.items()]
        return "\n".join(lines)

    def missed(self) -> list[str]:
        return [key for key, value in self.rows.items() if not TARGETS[key].met(value)]

    def write(self, path: Path = LATEST) -> None:
        """Write the JSON and the plot."""
        found = {
            "rows": self.rows,
            "spread": {key: [round(min(values), 4), round(max(values), 4)] for key, values in self.samples.items()},
            "rounds": {key: len(values) for key, values in self.samples.items()},
            "left_out": self.left_out,
            "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n")
        plot(self.rows, path.with_suffix(".png"))


def committed() -> dict[str, float]:
    """Return the rows of the last committed result."""
    shown = subprocess.run(
        ["git", "show", "HEAD:bench/results/latest.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows: dict[str, float] = json.loads(shown.stdout)["rows"] if shown.returncode == 0 else {}
    return rows


def plot(rows: dict[str, float], path: Path) -> None:
    """Draw the rows that have targets, each as a share of its target: to the right of the line it is better."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - likewise

    drawn = [(key, value) for key, value in rows.items() if TARGETS[key].bound]
    shares = [
        value / target.least if (target := TARGETS[key]).least else (target.most or 1) / max(value, 1e-9)
        for key, value in drawn
    ]
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(drawn) + 1.2))
    colours = ["#3a7d44" if share >= 1 else "#b23a48" for share in shares]
    axes.barh([TARGETS[key].text for key, _ in drawn], shares, color=colours)
    for place, ((key, value), share) in enumerate(zip(drawn, shares, strict=True)):
        axes.text(share, place, f"  {value:.3g} ({TARGETS[key].bound})", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times as good as it must be")
    axes.invert_yaxis()
    axes.margins(x=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
