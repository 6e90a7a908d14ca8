"""What the documents say of commands, flags, messages and figures is what the code says, in both languages."""

import ast
import re
import shlex
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
import report
import site_hooks
import video_generation
from babel.messages.pofile import read_po
from shared_cli import parser_of

from psa_paddle.cli import COMMANDS
from psa_paddle.cli.model_flags import model_settings
from psa_paddle.plan import DENSE_BELOW
from psa_paddle.utils.language import CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ENGLISH = sorted(page for page in DOCS.glob("*.md") if not page.name.endswith(".zh.md"))
# Records for those who work on the code are in English alone; pages that show another file have no text.
RECORDS = ("lab-notes.md",)
PAIRS = [page for page in ENGLISH if page.name not in RECORDS and not site_hooks.shown_by(page.read_text("utf-8"))]
PAGES = [ROOT / "README.md", ROOT / "README_zh.md", ROOT / "qwen2.5-vl/README.md", ROOT / "demo/README.md"]
PAGES += [page for page in sorted(DOCS.glob("*.md")) if page.name not in RECORDS]
SCRIPTS = {"infer_qwen2_5_vl_psa.py": "ask", "calibrate_psa.py": "calibrate"}
# Flags of other programs that the pages name: of pip, modelscope and Paddle's launcher; and those of every parser.
OTHERS = {"--no-deps", "--local_dir", "--gpus", "--log_dir", "--help", "--version"}
LAUNCHER = "paddle.distributed.launch"


def translated(page: Path) -> Path:
    return page.with_suffix(".zh.md")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, languages: str = r"\w+") -> list[str]:
    """The code between fences of these languages."""
    return re.findall(rf"(?ms)^```(?:{languages})\n(.*?)^```$", text)


def prose(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def same_in_any_language(block: str) -> list[str]:
    """Lines of code without their comments, sentences in quotes as ``"..."``."""
    lines = [re.sub(r"(^|\s{2,})#.*", "", line).rstrip() for line in block.splitlines()]
    sentence = re.compile(r"[^\x00-\x7f]| ")
    return [re.sub(r'"[^"]*"', lambda x: '"..."' if sentence.search(x[0]) else x[0], line) for line in lines]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(command, its arguments) of every line that runs one of ours: a subcommand, or ``video`` of the example."""
    found = []
    for line in "\n".join(blocks(text, "bash|console")).replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        stop = next((i for i, word in enumerate(words) if word in ("|", "&&") or word[0] in "<>"), len(words))
        words = words[:stop]
        if LAUNCHER in words:  # it takes a number of flags, then what to run
            ours = [i for i, word in enumerate(words) if word.endswith(("psa-paddle", *SCRIPTS))]
            words = [*(["python"] if words[ours[0]].endswith(".py") else []), *words[ours[0] :]] if ours else []
        if not words:
            continue
        if words[0].endswith("psa-paddle"):
            found.append((words[1], words[2:]))
        elif words[0].startswith("python") and Path(words[1]).name in SCRIPTS:
            found.append((SCRIPTS[Path(words[1]).name], words[2:]))
        elif words[0].startswith("python") and words[1] == "examples/video_generation.py":
            found.append(("video", words[2:]))
    return found


def as_on_any_machine(args) -> bool:
    """Whether settings need no file of budgets, no PaddleMIX and no second process."""
    return args.budgets is None and args.library == "auto" and args.tensor_parallel is None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_are_taken(page, capsys):
    for command, words in commands(page.read_text(encoding="utf-8")):
        if command.startswith("-"):
            assert command in ("--help", "--version")
            continue
        parser = video_generation.build_parser() if command == "video" else parser_of(command)
        if "--help" in words:
            continue
        try:
            args = parser.parse_args(words)
        except SystemExit:
            pytest.fail(f"{command} {shlex.join(words)}: {capsys.readouterr().err}")
        if command in ("ask", "chat") and as_on_any_machine(args):
            model_settings(args)


def test_there_are_command_lines_to_take():
    everything = [command for page in PAGES for command, _ in commands(page.read_text(encoding="utf-8"))]
    assert len(everything) > 60 and {*COMMANDS, "video"} <= set(everything)
    broken = "```bash\nX=1 psa-paddle ask --input a \\\n  --never | next  # words\n```\n"
    assert commands(broken) == [("ask", ["--input", "a", "--never"])]


def known_flags() -> set[str]:
    parsers = [*(parser_of(command) for command in COMMANDS), video_generation.build_parser()]
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings} | OTHERS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_in_the_text_exist(page):
    spans = re.findall(r"`([^`\n]+)`", prose(page.read_text(encoding="utf-8")))
    named = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", span)}
    assert named <= known_flags()


BOTH = [(page, translated(page)) for page in PAIRS]
BOTH += [(ROOT / "README.md", ROOT / "README_zh.md"), (ROOT / "qwen2.5-vl/README.md", DOCS / "flags.zh.md")]


@pytest.mark.parametrize("pages", BOTH, ids=lambda pages: name_of(pages[1]))
def test_both_languages_have_the_same_shape(pages):
    """Headings, code, tables and pictures in the same order; only words differ."""
    english, chinese = (page.read_text(encoding="utf-8") for page in pages)
    shape = r"(?m)^(#+ |:::.*$|\||!\[|- |\d\. )"
    assert re.findall(shape, prose(chinese)) == re.findall(shape, prose(english))
    code = [[same_in_any_language(block) for block in blocks(text)] for text in (english, chinese)]
    assert code[0] == code[1]
    assert len(re.findall("[\u4e00-\u9fff]", chinese)) > 20 * len(re.findall("[\u4e00-\u9fff]", prose(english)))


def test_every_page_is_there_in_chinese():
    assert len(PAIRS) >= 12 and not [page.name for page in PAIRS if not translated(page).is_file()]
    assert not [page.name for page in DOCS.glob("*.zh.md") if not (DOCS / page.name.replace(".zh", "")).is_file()]


def messages_of_the_code() -> str:
    """Every text in the sources, a line each, with … for what is filled in."""
    found = []
    for file in (ROOT / "psa_paddle").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{\}|%[ds]", "…", node.value))
    return "\n".join(found)


def quoted(page: Path) -> list[list[str]]:
    """The messages that begin a table's rows, in one language or in two."""
    rows = re.findall(r"(?m)^\| (`[^`]+`(?:<br>`[^`]+`)?) \|", page.read_text(encoding="utf-8"))
    return [re.findall("`([^`]+)`", row.replace("\\|", "|")) for row in rows]


def test_messages_to_be_helped_with_are_those_of_the_code():
    english, chinese = quoted(DOCS / "troubleshooting.md"), quoted(DOCS / "troubleshooting.zh.md")
    known = messages_of_the_code()
    assert len(english) >= 25 and not [message for (message,) in english if message not in known]
    assert [pair[-1] for pair in chinese] == [message for (message,) in english]


def test_messages_in_chinese_are_those_of_the_catalogue():
    with open(CATALOGUE, encoding="utf-8") as file:
        sentences = [(str(one.id), str(one.string)) for one in read_po(file)]
    pairs = [[re.sub(r"\{[^}]*\}|%[ds]", "…", text).strip() for text in pair] for pair in sentences]
    shown = [pair for pair in quoted(DOCS / "troubleshooting.zh.md") if len(pair) == 2]
    assert len(shown) >= 25
    wrong = [ours for ours in shown if not any(ours[1] in english and ours[0] == chinese for english, chinese in pairs)]
    assert not wrong


@pytest.mark.parametrize("page", ENGLISH + [translated(page) for page in PAIRS], ids=name_of)
def test_the_tables_are_made_of_the_rows(page):
    text = page.read_text(encoding="utf-8")
    assert report.with_own_headers(text, report.words_of(page)) == text, "run python benchmarks/report.py"


def test_a_table_with_another_header_is_refused():
    with pytest.raises(ValueError, match="'cpu' has 6 columns, not 2"):
        report.with_own_headers("<!-- table: cpu -->\n| a | b |\n|---|---|\n<!-- end -->\n", {})


def speedup(preset: str, tokens: int) -> str:
    """The operator's over cuDNN's dense attention, as the pages round it."""
    (row,) = report.rows_of("operator_presets", L=str(tokens), case=preset)
    return f"{float(row['vs_cudnn']):.1f}"


@pytest.mark.parametrize("page", ["README.md", "README_zh.md", "docs/backends.md", "docs/backends.zh.md"])
def test_speeds_in_sentences_are_those_of_the_rows(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    lengths = (65536,) if page.startswith("README") else (65536, 32768, 131072)
    for preset in ("balanced", "fast"):
        places = [re.search(rf"(?<![\d.]){re.escape(speedup(preset, n))}(?!\d)", text) for n in lengths]
        assert all(places), [speedup(preset, n) for n in lengths]
    (cpu,) = report.rows_of("cpu", L="8192")
    assert re.search(rf"(?<!\d){float(cpu['vs_sdpa']):.0f} (times|倍)", text)


@pytest.mark.parametrize("page", ["README.md", "README_zh.md"])
def test_losses_in_sentences_are_those_of_the_rows(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for preset in report.PRESETS:
        rows = report.rows_of("language", tokens="32768", setting=preset)
        losses = [Decimal(row["loss"].split(" ")[0]) for row in rows]
        low, high = (f"{x.quantize(Decimal('0.001'), ROUND_HALF_UP):+}" for x in (min(losses), max(losses)))
        assert re.search(rf"`{preset}`\s+{re.escape(low)}\s+(to|至)\s+{re.escape(high)}", text), (preset, low, high)


@pytest.mark.parametrize("page", ["docs/how.md", "docs/how.zh.md"])
def test_lengths_below_which_calls_run_dense(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert all(f"{keys:,}" in text for keys in DENSE_BELOW.values())


@pytest.mark.parametrize("page", ["docs/web.md", "docs/web.zh.md"])
def test_bounds_of_the_web_page_are_its_defaults(page):
    rows = re.findall(r"(?m)^\| `--([\w-]+)` \|.*\| (\d+) \|$", (ROOT / page).read_text(encoding="utf-8"))
    defaults = parser_of("web").parse_args([])
    assert len(rows) == 6
    assert {name: int(value) for name, value in rows} == {x: getattr(defaults, x.replace("-", "_")) for x, _ in rows}
