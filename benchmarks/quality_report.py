"""Rows of bench_quality.py as a Markdown table, a CSV and a plot."""

from __future__ import annotations

import importlib.util
import textwrap

import common

FIELDS = ("tokens", "setting", "density", "accuracy", "agreement", "error", "questions", "clips", "seconds")


def check_outputs(csv_file, plot) -> None:
    """ValueError when a file's folder is not there, or when there is to be a plot and no matplotlib to draw it."""
    for path in (csv_file, plot):
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"the folder of '{path}' does not exist; make it first.")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib; install it (pip install matplotlib) or leave --plot out.")


def line(row: dict) -> str:
    """One row of the table; accuracy and agreement in percent."""
    cells = {
        "density": f"{row['density']:.3f}",
        "accuracy": f"{100 * row['accuracy']:.1f}",
        "agreement": f"{100 * row['agreement']:.2f}",
        "error": f"{row['error']:.4f}",
        "seconds": f"{row['seconds']:.1f}",
    }
    return "| " + " | ".join(cells.get(f, str(row[f])) for f in FIELDS) + " |"


def write_csv(path, found: dict, rows) -> None:
    """All rows with the group and the accuracy by kind of question; found: ``common.facts``."""
    names = list(FIELDS) + ["group"] + sorted({name for row in rows for name in row if name.startswith("right_")})
    common.write_csv(path, found, names, rows)


def write_plot(path, rows, title: str) -> None:
    """Accuracy and relative attention error against density, one column of panels a length."""
    if path is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = list(dict.fromkeys(row["tokens"] for row in rows))
    groups = [g for g in dict.fromkeys(row["group"] for row in rows) if g != "dense"]
    colours = dict(zip(groups, pyplot.get_cmap("tab20").colors, strict=False))
    figure, axes = pyplot.subplots(2, len(lengths), figsize=(4 * len(lengths) + 2, 7), squeeze=False, sharex=True)
    for column, length in enumerate(lengths):
        for panel, key, factor in ((axes[0][column], "accuracy", 100), (axes[1][column], "error", 1)):
            for group in groups:
                found = sorted(
                    (row["density"], factor * row[key], row["setting"])
                    for row in rows if row["group"] == group and row["tokens"] == length
                )  # fmt: skip
                if not found:
                    continue
                style = "o-" if group.startswith(("topk", "energy")) else "o"
                panel.plot(*zip(*[f[:2] for f in found], strict=True), style, color=colours[group], label=group, ms=4)
                if group == "presets":
                    for x, y, name in found:
                        panel.annotate(name.removeprefix("preset "), (x, y), fontsize=7)
            dense = next(row for row in rows if row["group"] == "dense" and row["tokens"] == length)
            panel.axhline(factor * dense[key], color="grey", lw=1, label="dense")
            panel.grid(alpha=0.3)
        axes[0][column].set_title(f"{length} vision tokens")
        axes[1][column].set_xlabel("density (share of the dense attention work)")
    axes[0][0].set_ylabel("% of answers right")
    axes[1][0].set_ylabel("relative attention error")
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=5, fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(title, 30 * len(lengths) + 30)), fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=120)
