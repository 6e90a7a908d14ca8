"""Plant faults of one place in a copy of the tree and see whether the tests notice: how good are they?

    python tests/mutation/campaign.py --faults 240                        # all files, results in campaign.jsonl
    python tests/mutation/campaign.py --faults 60 --only 'psa_paddle/kernels/*' --out kernels.jsonl
    python tests/mutation/campaign.py --faults 240 --again                # ask the survivors again, after new tests

Not part of the test suite: a fault takes 5 to 60 seconds. The seed picks the faults, evenly over the files of
``tests.yaml``, which names the test files that each source file is put to. A hang counts as seen. Results are kept a
line each, so that a run which was stopped goes on; the working tree is never touched. ``known.yaml`` lists the faults
that change nothing (never planted) and the survivors that are explained (planted, and counted as survivors).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path

import yaml
from faults import Fault, compiles, faults, shuffled

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LEAST_SECONDS = 60


def read_map() -> dict[str, list[str]]:
    """Source file -> the test files that it is put to."""
    return yaml.safe_load((HERE / "tests.yaml").read_text(encoding="utf-8"))


def read_known() -> dict[str, dict[tuple[str, str, str], str]]:
    """``same`` and ``survives``: (file, line before, line after) -> why."""
    known = yaml.safe_load((HERE / "known.yaml").read_text(encoding="utf-8"))
    return {
        part: {(file, x["before"], x["after"]): x["why"] for file, rows in (known[part] or {}).items() for x in rows}
        for part in ("same", "survives")
    }


def gone(known) -> list[tuple[str, str]]:
    """File and line of the known faults that no longer can be planted."""
    rows = [(file, before, after) for part in known.values() for file, before, after in part]
    lines = {file: (ROOT / file).read_bytes() if (ROOT / file).exists() else b"" for file, _, _ in rows}
    there = {file: {(x.before, x.after) for x in faults(source)} for file, source in lines.items()}
    return [(file, before) for file, before, after in rows if (before, after) not in there[file]]


def pick(files: list[str], count: int, seed: int, same: set) -> list[tuple[str, Fault]]:
    """``count`` faults, one of each file by turns."""

    def order(file):
        source = (ROOT / file).read_bytes()
        for fault in shuffled(faults(source), f"{seed} {file}"):
            if (file, fault.before, fault.after) not in same and compiles(fault, source):
                yield file, fault

    rounds = zip_longest(*map(order, files))
    return list(islice((one for turn in rounds for one in turn if one is not None), count))


def name_of(file: str, fault: Fault) -> str:
    """Stays what it is while other lines change."""
    words = "\n".join((file, fault.kind, fault.before, fault.after, *([str(fault.nth)] if fault.nth else [])))
    return hashlib.sha1(words.encode()).hexdigest()[:12]


def copy_tree(to: Path) -> None:
    """What git tracks or would track, as it stands in the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0"):
        if name and ((ROOT / name).is_file() or (ROOT / name).is_symlink()):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)  # one test asks for the very link


def run_tests(tree: Path, tests: list[str], seconds: float) -> tuple[str, float, str]:
    """``("passed" | "failed" | "hung", seconds, last line)`` of the tests in a copy of the tree."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    # No bytecode: two faults of one size within a second would share it.
    extra = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        run = subprocess.Popen(
            command, cwd=tree, env={**os.environ, **extra}, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = run.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # whatever the tests left running
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    took = time.monotonic() - begin
    return {None: "hung", 0: "passed"}.get(status, "failed"), took, next(reversed(lines), "")


def read_rows(out: Path) -> list[dict]:
    """What earlier runs found."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def digest_of(tree: Path, tests: tuple[str, ...]) -> str:
    """Changes when one of the test files does."""
    files = [path for name in tests for path in ([tree / name] if name.endswith(".py") else (tree / name).glob("*.py"))]
    return hashlib.sha1(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:8]


class Campaign:
    """Runs faults in copies of the tree; each worker has its own."""

    def __init__(self, folder: Path, jobs: int, tests: dict[str, list[str]], out: Path):
        self.tests, self.out, self.lock = tests, out, threading.Lock()
        self.seconds = {row["baseline"]: row["seconds"] for row in read_rows(out) if "baseline" in row}
        self.baselines: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self.trees: queue.Queue[Path] = queue.Queue()
        for i in range(jobs):
            tree = folder / str(i)
            copy_tree(tree)
            self.trees.put(tree)

    def baseline(self, tree: Path, tests: tuple[str, ...]) -> float:
        """Seconds that the tests, as they stand, take without a fault."""
        name = " ".join(tests) + " " + digest_of(tree, tests)
        with self.baselines[name]:
            if name not in self.seconds:
                found, took, last = run_tests(tree, list(tests), 1800)
                if found != "passed":
                    raise SystemExit(f"{' '.join(tests)}: {found} without any fault: {last}")
                self.seconds[name] = took
                self.keep({"baseline": name, "seconds": round(took, 1)})
        return self.seconds[name]

    def keep(self, row: dict) -> None:
        with self.lock, self.out.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")

    def ask(self, file: str, fault: Fault) -> dict:
        tree = self.trees.get()
        try:
            tests = tuple(self.tests[file])
            limit = max(LEAST_SECONDS, 5 * self.baseline(tree, tests))
            source = (tree / file).read_bytes()
            (tree / file).write_bytes(fault.apply(source))
            try:
                found, took, last = run_tests(tree, list(tests), limit)
            finally:
                (tree / file).write_bytes(source)
        finally:
            self.trees.put(tree)
        row = {"id": name_of(file, fault), "file": file, "line": fault.line, "kind": fault.kind, "found": found}
        row |= {"seconds": round(took, 1), "before": fault.before, "after": fault.after, "last": last[:200]}
        self.keep(row)
        print(f"{found:7} {took:5.0f} s  {file}:{fault.line}  {fault.after}", flush=True)
        return row


def report(rows: list[dict], why: dict) -> float:
    """Print a table and the survivors; return the share seen."""
    files = defaultdict(list)
    for row in rows:
        files[row["file"]].append(row["found"] != "passed")
    print(f"\n{'file':52} {'faults':>6} {'seen':>5}")
    for file, seen in sorted(files.items()):
        print(f"{file:52} {len(seen):6} {sum(seen):5}")
    share = sum(row["found"] != "passed" for row in rows) / max(1, len(rows))
    print(f"{'all':52} {len(rows):6} {sum(row['found'] != 'passed' for row in rows):5}  {share:.1%}")
    print(f"{sum(row['seconds'] for row in rows) / 60:.0f} minutes of tests; survivors:")
    for row in rows:
        if row["found"] == "passed":
            print(f"\n{row['file']}:{row['line']} ({row['kind']})\n  - {row['before']}\n  + {row['after']}")
            print("  why: " + why.get((row["file"], row["before"], row["after"]), "not explained"))
    return share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=240, help="how many (default: 240)")
    parser.add_argument("--seed", type=int, default=0, help="which (default: 0)")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="source files to plant them in")
    parser.add_argument("--out", type=Path, default=Path("campaign.jsonl"), help="results, kept from run to run")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree that run at a time (default: 1)")
    parser.add_argument("--again", action="store_true", help="plant the survivors of earlier runs again")
    parser.add_argument("--least", type=float, default=0.92, help="share seen for exit status 0 (default: 0.92)")
    args = parser.parse_args()

    tests, known = read_map(), read_known()
    for file, before in gone(known):
        print(f"no longer in {file}: {before}")
    files = [file for file in sorted(tests) if tests[file] and any(fnmatch.fnmatch(file, glob) for glob in args.only)]
    picked = pick(files, args.faults, args.seed, set(known["same"]))
    done = {row["id"]: row for row in read_rows(args.out) if "id" in row}  # the last word on each
    left = [(file, x) for file, x in picked if not (row := done.get(name_of(file, x))) or
            (args.again and row["found"] == "passed")]  # fmt: skip
    print(f"{len(picked)} faults in {len(files)} files, {len(left)} to plant", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        campaign = Campaign(Path(folder), args.jobs, tests, args.out.resolve())
        with ThreadPoolExecutor(args.jobs) as pool:
            for row in pool.map(lambda one: campaign.ask(*one), left):
                done[row["id"]] = row
    return 0 if report([done[name_of(*one)] for one in picked], known["survives"]) >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
