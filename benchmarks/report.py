"""Tables and plots of RESULTS.md and of the pages in docs/ from the rows in results/.

    python benchmarks/report.py            # writes the tables between the pages' marks, and results/*.svg

The plots need matplotlib (pip install -e '.[bench]').
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from common import header, line

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
DOCS = HERE.parent / "docs"
PRESETS = ("quality", "balanced", "fast")
CALIBRATED = ("balanced, calibrated budgets", "fast, calibrated budgets")
COLOURS = {
    "dense": "#444444", "quality": "#1f77b4", "balanced": "#2ca02c", "fast": "#d62728", "seed": "#9467bd",
    "floor": "#bbbbbb",
}  # fmt: skip


CHINESE = {
    "at density": "密度", "density": "密度", "kept": "保留", "| all |": "| 全部 |", "| dense |": "| 稠密 |",
    ", calibrated budgets": "，校准的份额",
}  # fmt: skip


def rows_of(name: str, **wanted: str) -> list[dict]:
    """Rows of results/NAME.csv whose columns have these values."""
    with open(HERE / "results" / f"{name}.csv", newline="", encoding="utf-8") as f:
        return [row for row in csv.DictReader(f) if all(row[column] == value for column, value in wanted.items())]


def values(name: str, column: str, **wanted: str) -> list[str]:
    """A column without repeats, in the file's order."""
    return list(dict.fromkeys(row[column] for row in rows_of(name, **wanted)))


def spread(texts: list[str]) -> str:
    """``"12.9-13.3"``, or one value."""
    low, high = min(texts, key=float), max(texts, key=float)
    return low if low == high else f"{low}-{high}"


def tokens(text: str) -> str:
    return f"{int(text):,}"


def middle(text: str) -> float:
    """A number, or the middle of ``"46-70"``."""
    parts = [float(part) for part in text.split("-")]
    return sum(parts) / len(parts)


def operator_table() -> str:
    lines = [header(("tokens", "cuDNN dense, ms", *(f"`{name}`, ms" for name in PRESETS)))]
    for length in values("operator_presets", "L"):
        cells = []
        for name in PRESETS:
            (row,) = rows_of("operator_presets", L=length, case=name)
            cells.append(f"{row['psa_ms']} (**{row['vs_cudnn']}x** at density {row['density']})")
        lines.append(line((tokens(length), spread(values("operator_presets", "dense_cudnn_ms", L=length)), *cells)))
    return "\n".join(lines)


def calls_table() -> str:
    fields = (
        "tokens", "its kernels, ms", "torch, ms", "Paddle, ms", "before, torch, ms", "every block at level 1, ms",
        "cuDNN dense, ms",
    )  # fmt: skip
    before, *_, now = values("calls", "commit")
    lines = [header(fields)]
    for length in values("calls", "L", commit=now, tensors="torch"):
        (row,) = rows_of("calls", commit=now, L=length, case="balanced", tensors="torch")
        (dense,) = rows_of("calls", commit=now, L=length, case="level1", tensors="torch")
        paddle = rows_of("calls", L=length, case="balanced", call="pyramid_attention")
        former = rows_of("calls", commit=before, L=length, case="balanced")
        loops = [f"{x['loop_ms']} ({float(x['loop_ms']) / float(row['kernels_ms']):.2f}x)" for x in (row, *paddle)]
        times = [*loops, *["-"] * (not paddle), former[0]["loop_ms"] if former else "-"]
        lines.append(line((tokens(length), row["kernels_ms"], *times, dense["loop_ms"], row["cudnn_ms"])))
    return "\n".join(lines)


def prefill_table() -> str:
    cases = values("prefill", "case")
    lines = [header(("tokens", "dense, ms", *(f"`{case}`, ms" for case in cases), "no attention at all, ms"))]
    for length in values("prefill", "L"):
        rows = [rows_of("prefill", L=length, case=case)[0] for case in cases]
        cells = [f"{row['psa_ms']} (**{row['speedup']}x** at density {row['density']})" for row in rows]
        lines.append(line((tokens(length), rows[0]["dense_ms"], *cells, rows[0]["floor_ms"])))
    return "\n".join(lines)


def cpu_table() -> str:
    lines = [header(("tokens", "Paddle's SDPA, ms", "dense matmuls, ms", "`balanced`, ms", "vs SDPA", "vs matmuls"))]
    for row in rows_of("cpu"):
        times = (row["sdpa_ms"], row["dense_ms"], f"{row['psa_ms']} (density {row['density']})")
        lines.append(line((tokens(row["L"]), *times, f"{row['vs_sdpa']}x", f"{row['vs_dense']}x")))
    return "\n".join(lines)


def answers_table() -> str:
    lengths = ("1k", "2k", "8k")
    fields = (
        "preset",
        *(f"right at {length}, %" for length in lengths),
        "loss on code, nats",
        "loss on documents, nats",
    )
    lines = [header(fields)]
    for name in ("dense", *PRESETS, "seed", *CALIBRATED):
        setting = name if name == "dense" else f"preset {name}"
        found = [rows_of("answers", commit="b97aa60", tokens=length, setting=setting) for length in lengths]
        right = [f"{row[0]['accuracy_percent']} (density {row[0]['density']})" if row else "" for row in found]
        lines.append(line((name, *right, *(loss_cell(name, corpus) for corpus in ("code", "docs")))))
    return "\n".join(lines)


def loss_cell(name: str, corpus: str) -> str:
    """The loss with each training seed, and where it differs the density."""
    rows = rows_of("language", tokens="32768", setting=name, corpus=corpus)
    losses = ", ".join(row["loss"].split(" ")[0] for row in rows)
    return losses if name == "dense" else f"{losses} (density {spread([row['density'] for row in rows])})"


def video_table() -> str:
    kinds = ("time", "caption")
    fields = (
        "video tokens",
        "kept",
        "right, dense, %",
        "right, `balanced`, %",
        *(f"{kind} questions, dense, %" for kind in kinds),
        "prefill, dense, s",
        "prefill, `balanced`, s",
    )
    lines = [header(fields)]
    for setting in values("video_tokens", "video_tokens"):
        rows = [rows_of("video_tokens", video_tokens=setting, attention=name)[0] for name in ("dense", "balanced")]
        right = [row["accuracy_percent"] for row in rows] + [rows[0][f"right_{kind}"] for kind in kinds]
        timed = [rows_of("video_tokens_times", video_tokens=setting, attention=row["attention"]) for row in rows]
        seconds = [f"{found[0]['prefill_s']} (kept {found[0]['kept']})" if found else "-" for found in timed]
        lines.append(line((f"`{setting}`" if setting != "1" else "all", rows[0]["kept"], *right, *seconds)))
    return "\n".join(lines)


def whole_answer_table() -> str:
    """What the fast layers and the newest instructions leave of the seconds, each stage with its share."""
    stages = ("decode", "preprocess", "vision", "prefill")
    names = ("tokens", "setting", "before, s", "first token, s", *(f"{name}, s" for name in stages), "peak memory, MiB")
    lines = [header(names)]
    for row in rows_of("whole_answer", commit="1ff3a74"):
        (old,) = rows_of("whole_answer", commit="bec30bd", mkl="", tokens=row["tokens"], setting=row["setting"])
        cells = [f"{row[f'{name}_s']} ({row[f'{name}_share']} %)" for name in stages]
        lines.append(
            line(
                (
                    tokens(row["tokens"]),
                    row["setting"].replace("balanced", "`balanced`").replace(",0.5", ", half of the video tokens"),
                    old["first_token_s"],
                    row["first_token_s"],
                    *cells,
                    row["peak_mib"],
                )
            )
        )
    return "\n".join(lines)


def tower_table() -> str:
    forms = ("each", "batched", "batched flash", "varlen", "ours", "ours wide", "sparse")
    lines = [header(("form", "window layer, ms", "64k tokens, ms", "full layer, ms", "64k tokens, ms"))]
    for form in forms:
        found = [rows_of("vision_tower", frame="36x36", layer=layer, form=form) for layer in ("window", "full")]
        lines.append(line((form, *(row[0][name] if row else "-" for row in found for name in ("ms", "video_ms")))))
    return "\n".join(lines)


TABLES = {
    "tower": tower_table,
    "whole_answer": whole_answer_table,
    "operator": operator_table,
    "calls": calls_table,
    "prefill": prefill_table,
    "cpu": cpu_table,
    "answers": answers_table,
    "video": video_table,
}


def with_tables(page: str) -> str:
    """RESULTS.md with every table between its marks made anew."""
    for name, table in TABLES.items():
        block = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        page, count = re.subn(block, lambda m, table=table: m[1] + table() + "\n" + m[2], page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"RESULTS.md must have the marks of the table '{name}' once, has {count}.")
    return page


def with_own_headers(page: str, words: dict[str, str]) -> str:
    """A page of docs/ with the rows of the tables that it marks made anew; headers stay, as they are in its language.

    words: what the cells say, in that language.
    """

    def table(found: re.Match) -> str:
        head, _, *rows = TABLES[found[2]]().splitlines()
        for ours, theirs in words.items():
            rows = [row.replace(ours, theirs) for row in rows]
        own = found[3].splitlines()
        if own[0].count("|") != head.count("|"):
            raise ValueError(f"the table '{found[2]}' has {head.count('|') - 1} columns, not {own[0].count('|') - 1}.")
        return "\n".join([found[1], *own[:2], *rows, "<!-- end -->"])

    return re.sub(r"(?s)(<!-- table: (\w+) -->)\n(.*?)<!-- end -->", table, page)


def words_of(page: Path) -> dict[str, str]:
    """What the cells of a page's tables say in its language."""
    return CHINESE if page.name.endswith(".zh.md") else {}


def axes(pyplot, title: str, panels: int = 1):
    figure, found = pyplot.subplots(1, panels, figsize=(6.4 * panels, 3.6), squeeze=False)
    figure.suptitle(title, fontsize=10)
    for panel in found[0]:
        panel.grid(alpha=0.3)
    return figure, found[0]


def by_length(panel, name: str, column: str, label: str, colour: str, style: str = "o-", **wanted: str) -> None:
    rows = rows_of(name, **wanted)
    panel.plot([int(row["L"]) for row in rows], [middle(row[column]) for row in rows], style, label=label, color=colour)


def finish(figure, panels, name: str, log: bool = True) -> None:
    for panel in panels:
        if log:
            panel.set(xscale="log", yscale="log", xlabel="tokens")
            ticks = sorted({int(x) for drawn in panel.get_lines() for x in drawn.get_xdata()})
            panel.set_xticks(ticks, [f"{x:,}" for x in ticks], fontsize=8)
            panel.minorticks_off()
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "results" / f"{name}.svg", metadata={"Date": None})


def plot_operator(pyplot) -> None:
    figure, (panel,) = axes(pyplot, "One attention layer on an H200")
    by_length(panel, "operator_presets", "dense_cudnn_ms", "cuDNN dense", COLOURS["dense"], case="balanced")
    for name in PRESETS:
        by_length(panel, "operator_presets", "psa_ms", name, COLOURS[name], case=name)
    panel.set_ylabel("milliseconds")
    finish(figure, [panel], "operator")


def plot_prefill(pyplot) -> None:
    figure, (panel,) = axes(pyplot, "Prefill of a 7B language model with random weights on an H200")
    by_length(panel, "prefill", "dense_ms", "dense", COLOURS["dense"], case="balanced")
    for name in values("prefill", "case"):
        by_length(panel, "prefill", "psa_ms", name, COLOURS[name], case=name)
    by_length(panel, "prefill", "floor_ms", "no attention at all", COLOURS["floor"], "--", case="balanced")
    panel.set_ylabel("milliseconds")
    finish(figure, [panel], "prefill")


def plot_cpu(pyplot) -> None:
    figure, (panel,) = axes(pyplot, "One attention layer on two CPU cores (the middle where runs differ)")
    by_length(panel, "cpu", "sdpa_ms", "Paddle's SDPA", COLOURS["floor"])
    by_length(panel, "cpu", "dense_ms", "dense matmuls", COLOURS["dense"])
    by_length(panel, "cpu", "psa_ms", "balanced", COLOURS["balanced"])
    panel.set_ylabel("milliseconds")
    finish(figure, [panel], "cpu")


def plot_answers(pyplot) -> None:
    figure, panels = axes(pyplot, "What the presets lose", 2)
    for name in ("dense", *PRESETS, "seed"):
        rows = rows_of("answers", commit="b97aa60", setting="dense" if name == "dense" else f"preset {name}")
        lengths, right = ([row[column] for row in rows] for column in ("tokens", "accuracy_percent"))
        panels[0].plot(lengths, [float(x) for x in right], "o-", label=name, color=COLOURS[name])
    for name in (*PRESETS, "seed", *CALIBRATED):
        rows = rows_of("language", tokens="32768", setting=name)
        found = [(float(row["density"]), float(row["loss"].split(" ")[0])) for row in rows]
        mark, colour = "x" if name in CALIBRATED else "o", COLOURS[name.split(",")[0]]
        panels[1].plot(*zip(*found, strict=True), mark, label=name, color=colour)
    panels[0].set(xlabel="vision tokens", ylabel="% of answers right", title="demo model")
    panels[1].set(xlabel="density", ylabel="loss over dense, nats", title="text, 32,768 tokens, four models")
    panels[1].axhline(0, color=COLOURS["dense"], lw=1)
    finish(figure, panels, "answers", log=False)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "psa", "svg.fonttype": "none", "font.size": 9})
    RESULTS.write_text(with_tables(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(with_own_headers(page.read_text(encoding="utf-8"), words_of(page)), encoding="utf-8")
    for plot in (plot_operator, plot_prefill, plot_cpu, plot_answers):
        plot(pyplot)


if __name__ == "__main__":
    main()
