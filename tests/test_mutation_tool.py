"""The tool that plants faults (tests/mutation): what it plants, and that every source file has its tests."""

import ast
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/mutation"))
import campaign  # noqa: E402
from faults import compiles, faults, shuffled, siblings  # noqa: E402

SOURCE = b'''"""Words."""
def f(stride_k, stride_v, n: int = 3):
    """1 + 1"""
    if n < 2 and stride_k is not None:
        raise ValueError(f"{n + 1} is too small: {n}")
    n = n * stride_k
    g(n, stride_v)
    max(n, stride_v), isinstance(n, int), g(n, 1)
    return n if n else 1.5, run(x=True, num_warps=4)
'''
PLANTED = [
    ("constant", "def f(stride_k, stride_v, n: int = 4):"),
    ("condition", "if (not (n < 2 and stride_k is not None)):"),
    ("compare", "if n <= 2 and stride_k is not None:"),
    ("constant", "if n < 3 and stride_k is not None:"),
    ("logic", "if n < 2 or stride_k is not None:"),
    ("sibling", "if n < 2 and stride_v is not None:"),
    ("compare", "if n < 2 and stride_k is None:"),
    ("drop", "pass"),
    ("arithmetic", "n = n + stride_k"),
    ("sibling", "n = n * stride_v"),
    ("arguments", "g(stride_v, n)"),
    ("sibling", "g(n, stride_k)"),
    ("sibling", "max(n, stride_k), isinstance(n, int), g(n, 1)"),
    ("constant", "max(n, stride_v), isinstance(n, int), g(n, 2)"),
    ("condition", "return n if (not (n)) else 1.5, run(x=True, num_warps=4)"),
    ("constant", "return n if n else 1.6500000000000001, run(x=True, num_warps=4)"),
    ("constant", "return n if n else 1.5, run(x=False, num_warps=4)"),
]


def test_plants_what_people_get_wrong():
    found = faults(SOURCE)
    assert {(x.kind, x.after) for x in found} == set(PLANTED)
    assert [x.after for x in found].count("pass") == 3  # the raise, the product, the call
    for fault in found:
        assert compiles(fault, SOURCE) and ast.dump(ast.parse(fault.apply(SOURCE))) != ast.dump(ast.parse(SOURCE))


def test_the_seed_fixes_the_order_and_kinds_take_turns():
    found = faults(SOURCE)
    assert shuffled(found, "a") == shuffled(found, "a") != shuffled(found, "b")
    kinds = len({x.kind for x in found})
    assert len({x.kind for x in shuffled(found, "a")[:kinds]}) == kinds


def test_siblings_differ_in_one_letter_or_word():
    names = {"stride_kl", "stride_vl", "stride_kh", "query_block", "key_block", "q", "k", "block"}
    assert siblings("stride_kl", names) == {"stride_vl", "stride_kh"}
    assert siblings("query_block", names) == {"key_block"} and siblings("q", names) == set()


def test_every_source_file_is_put_to_tests_that_exist():
    tests = campaign.read_map()
    sources = [path for folder in ("psa_paddle", "qwen2.5-vl") for path in (ROOT / folder).rglob("*.py")]
    assert sorted(tests) == sorted(str(path.relative_to(ROOT)) for path in sources)
    assert all((ROOT / name).exists() for names in tests.values() for name in names)


def test_a_campaign_sees_survives_and_goes_on(tmp_path, monkeypatch, capsys):
    """On a tree of one source and a test that looks at half of it."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "code_.py").write_text("def f(n):\n    return n > 1\n\n\ndef g(n):\n    return f(n) + 1\n")
    (tmp_path / "tests/test_code.py").write_text("from code_ import f\n\n\ndef test_f():\n    assert not f(1)\n")
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"code_.py": ["tests/test_code.py"]}))
    one = {"before": "return n > 1", "after": "return n > 2", "why": "a joke"}
    two = {"before": "return f(n) + 1", "after": "return f(n) + 2", "why": "f is asked alone"}
    three = {"before": "return gone", "after": "return back", "why": "it was there once"}
    same = {"code_.py": [one, three]}
    (tmp_path / "known.yaml").write_text(yaml.safe_dump({"same": same, "survives": {"code_.py": [two]}}))

    def copy_tree(to):
        (to / "tests").mkdir(parents=True)
        for name in ("code_.py", "tests/test_code.py"):
            (to / name).write_bytes((tmp_path / name).read_bytes())

    for name, value in {"HERE": tmp_path, "ROOT": tmp_path, "copy_tree": copy_tree}.items():
        monkeypatch.setattr(campaign, name, value)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(sys, "argv", ["campaign.py", "--faults", "9", "--out", str(tmp_path / "out.jsonl")])
    assert campaign.main() == 1
    first = capsys.readouterr().out
    assert "3 faults in 1 files, 3 to plant" in first and "33.3%" in first and "+ return f(n) - 1" in first
    assert "why: f is asked alone" in first and "why: not explained" in first
    assert "no longer in code_.py: return gone" in first
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--least", "0.3"])
    assert campaign.main() == 0 and "0 to plant" in capsys.readouterr().out
    test = "from code_ import f, g\n\n\ndef test_f():\n    assert not f(1) and g(1) == 1\n"
    (tmp_path / "tests/test_code.py").write_text(test)
    monkeypatch.setattr(sys, "argv", ["campaign.py", "--faults", "3", "--again", "--out", str(tmp_path / "out.jsonl")])
    assert campaign.main() == 0 and "2 to plant" in capsys.readouterr().out
    assert "n > 1" in (tmp_path / "code_.py").read_text(), "the tree itself is never touched"


def test_a_hang_counts_as_seen(tmp_path):
    (tmp_path / "test_it.py").write_text("import time\n\n\ndef test_it():\n    time.sleep(60)\n")
    found, took, _ = campaign.run_tests(tmp_path, ["test_it.py"], 3)
    assert found == "hung" and took < 30


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the copy is of what git tracks")
def test_a_copy_of_the_tree_keeps_links_to_folders(tmp_path):
    campaign.copy_tree(tmp_path)
    assert (tmp_path / "demo" / "checkpoint").is_symlink() and (tmp_path / "demo/checkpoint/config.json").is_file()
