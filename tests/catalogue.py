"""The sentences that a user of the command line can meet, and the catalogue of their Chinese.

    python tests/catalogue.py    # brings the catalogue in line with the code, and shows what has no Chinese yet

In the catalogue a sentence is as in the code, its values as {0}, {1}, ...; in the Chinese ``{0:say}`` is a value that
is a sentence itself. What is better left as it is has itself as its Chinese.
"""

import argparse
import ast
import inspect
import re
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

PACKAGE = Path(__file__).resolve().parents[1] / "psa_paddle"
CATALOGUE = PACKAGE / "locale" / "zh" / "LC_MESSAGES" / "psa_paddle.po"
# Python alone meets what these say: no command makes a video, or hands tensors to the operator. The page has its own
# words in both languages.
NOT_MET = (
    "bridge", "kernels", "eager", "rearrange", "integrations/video", "trianglemix", "attention.py", "layers.py",
    "context_parallel.py", "context_split.py", "plan.py", "presets.py", "preset_file.py", "psa_config.py",
    "psa_module.py", "reference.py", "report", "utils/quiet.py", "web/gate.py", "web/page.py", "web/words.py",
)  # fmt: skip
MET = ("trianglemix/config.py", "report/capture.py", "web/server.py", "web/site.py")  # of them, all the same
# What is shown though it may be one word: every text inside these.
SHOWN = {"plan.py": ("DenseReason",), "utils/progress.py": ("WORDS",), "doctor/findings.py": ("STATUSES",)}
HEADER = r"""# The Chinese of psa_paddle's command line; python tests/catalogue.py keeps it in line with the code.
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\n"
"Content-Transfer-Encoding: 8bit\n"
"Language: zh\n"
"Plural-Forms: nplurals=1; plural=0;\n"

"""
PHRASE = re.compile(r"[A-Za-z]{2,}[,;:'.)]* +[A-Za-z{'(]|\}[,;:']* [a-z]|[a-z]+[:'] '?\{|^[a-z]+ ?\{|[a-z]{3}\.$")


def template(node: ast.AST) -> str | None:
    """A text of the code as the catalogue has it; None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = [part.replace("{", "{{").replace("}", "}}") for part in re.split(r"\{\w*\}|%[sd]", node.value)]
    elif isinstance(node, ast.JoinedStr):
        parts = [""]
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts[-1] += value.value.replace("{", "{{").replace("}", "}}")
            else:
                parts.append("")
    else:
        return None
    return "".join(f"{{{i - 1}}}{part}" if i else part for i, part in enumerate(parts))


def texts(node: ast.AST):
    """Every text below a node, its node, and the node that holds it; docstrings and names of values left out."""
    for field, child in ast.iter_fields(node):
        if isinstance(node, ast.Dict) and field == "keys":
            continue
        for one in child if isinstance(child, list) else [child]:
            if not isinstance(one, ast.AST):
                continue
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                continue
            found = template(one)
            if found is None:
                yield from texts(one)
                continue
            yield found, one, node
            for value in getattr(one, "values", ()):
                yield from texts(value)


def sentences_of(path: Path) -> set[str]:
    """What a source file says to people."""
    name = path.relative_to(PACKAGE).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        names = {getattr(node, "name", None), *(getattr(one, "id", None) for one in getattr(node, "targets", ()))}
        if names & set(SHOWN.get(name, ())):
            found |= {text for text, *_ in texts(node)}
    if is_met(name):
        for text, node, holder in texts(tree):
            is_first = getattr(holder, "args", None) and holder.args[0] is node
            if PHRASE.search(text) or (is_first and getattr(holder.func, "id", "") in ("say", "Fact")):
                found.add(text)
    return {text for text in found if re.search("[A-Za-z]", text)}


def is_met(name: str) -> bool:
    """Whether users of the command line meet what a file of the package says."""
    return name in MET or not any(name == one or name.startswith(f"{one}/") for one in NOT_MET)


def argparse_sentences() -> set[str]:
    """What this Python's ``argparse`` says."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(argparse))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("_", "ngettext"):
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            found |= {template(ast.Constant(re.sub(r"%(\(\w+\))?[rs]", "{}", text))) for text in texts}
    return found - {"{0}: error: {1}\n"}  # see psa_paddle/cli/parser.py


def sentences() -> dict[str, list[str]]:
    """Everything that is said, with the files that say it."""
    found: dict[str, list[str]] = {text: ["argparse"] for text in argparse_sentences()}
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in sentences_of(path):
            found.setdefault(text, []).append(path.relative_to(PACKAGE).as_posix())
    return found


def read_catalogue() -> Catalog:
    """The catalogue as it is."""
    with open(CATALOGUE, encoding="utf-8") as file:
        return read_po(file, locale="zh", ignore_obsolete=True)


def main() -> None:
    """Write the catalogue again, ordered by file; what another Python's argparse says stays in it."""
    old, new = read_catalogue(), Catalog(locale="zh", fuzzy=False)
    said = {str(one.id): ["argparse"] for one in old if "argparse" in one.user_comments} | sentences()
    for text, files in sorted(said.items(), key=lambda row: (row[1][0], row[0])):
        known = old.get(text)
        new.add(text, known.string if known else "", user_comments=files[:1])
        if not known or not known.string:
            print(f"{files[0]}: {text!r} has no Chinese yet")
    with open(CATALOGUE, "wb") as file:
        file.write(HEADER.encode())
        write_po(file, new, width=120, omit_header=True)


if __name__ == "__main__":
    main()
