"""What the audit says of the demo model, beside the true error of all rows: what its warning was set by.

    python benchmarks/bench_audit_model.py                     # PaddleFormers on a CPU, about ten minutes
    python benchmarks/bench_audit_model.py --lengths 2k --clips 1

Clips of the test split are prefilled through the product's plug, every preset sparse at any length and every row
audited. Columns: error of attention's output, mean over the layers and clips; the largest of a layer and of a head; the
share of heads whose figure from 16, 32 and 64 rows is within two of its sampling errors of the one from all rows.
"""

import argparse

import numpy as np
import paddle
from common import facts, header, machine_line
from quality_batches import batches
from quality_paddle import Driver
from quality_settings import Setting

from psa_paddle.config import AttentionConfig
from psa_paddle.stats import AuditedRows, attention_errors, audited_rows

ROWS = (16, 32, 64)
COLUMNS = ("preset", "tokens", "error", "largest layer", "largest head", *(f"within, {n} rows" for n in ROWS), "heads")


@paddle.no_grad()
def audit(driver: Driver, clip, preset: str) -> list[np.ndarray]:
    """The sums of every row of every layer, [1, H, rows, 2] each."""
    config = AttentionConfig.preset(preset, dense_below=0, audit_rows=clip.prefix_ids.shape[1])
    with driver.plugged(Setting(preset, "presets", "psa", config)) as plug:
        driver.prefix(clip)
        return [np.asarray(call.audits[0].sums) for _, call in plug.calls]


def row(preset: str, length: str, clips: list[list[np.ndarray]]) -> list[str]:
    layers, heads, within = [], [], {n: [] for n in ROWS}
    for sums in (layer for clip in clips for layer in clip):
        n = sums.shape[2]
        every, each = attention_errors([AuditedRows(sums, (n,))])
        layers.append(every.error)
        heads += [one.error for one in each]
        for rows, found in within.items():
            _, seen = attention_errors([AuditedRows(sums[:, :, audited_rows(n, rows)[0]], (n,))])
            found += [abs(a.error - b.error) <= 2 * a.sampling_error for a, b in zip(seen, each, strict=True)]
    shares = [f"{np.mean(found):.0%}" for found in within.values()]
    figures = [f"{np.mean(layers):.3f}", f"{max(layers):.2f}", f"{max(heads):.2f}"]
    return [preset, length, *figures, *shares, str(len(heads))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", default=["2k", "4k", "8k"])
    parser.add_argument("--presets", nargs="+", default=["quality", "balanced", "fast"])
    parser.add_argument("--clips", type=int, default=2)
    args = parser.parse_args()
    driver = Driver()
    print(machine_line(facts(driver.machine, *driver.PACKAGES)))
    print(header(COLUMNS))
    for length in args.lengths:
        clips = [driver.load(batch) for batch in batches("test", length, args.clips, 1, 1, 1)]
        for preset in args.presets:
            found = [audit(driver, clip, preset) for clip in clips]
            print("| " + " | ".join(row(preset, length, found)) + " |", flush=True)


if __name__ == "__main__":
    main()
