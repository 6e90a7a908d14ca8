"""Faults of one place in a Python source: what a tired programmer types, as replacements of a span of the text."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

COMPARE = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"), ast.Pow: ("**", "*"),
}  # fmt: skip
LOGIC = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
# Keywords that steer speed or are a check on the side, and calls whose arguments nobody exchanges or may be exchanged.
QUIET = {"num_warps", "num_stages", "maxnreg", "disable_licm", "strict"}
ASKING = {"isinstance", "hasattr", "getattr", "setattr"}
SYMMETRIC = {"min", "max", "minimum", "maximum"}


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def callee(function: ast.expr) -> str:
    """The last name of what is called."""
    return getattr(function, "attr", getattr(function, "id", ""))


@dataclass(frozen=True)
class Fault:
    """Bytes [start, end) of a file become ``text``; before and after are the whole lines, for people and
    for names; nth counts the equal ones before."""

    kind: str
    start: int
    end: int
    text: str
    line: int
    before: str
    after: str
    nth: int = 0

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    def __init__(self, source: bytes):
        self.source = source
        lines = source.split(b"\n")
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.found: list[Fault] = []
        self.names: list[set[str]] = []  # identifiers of the functions around
        self.attributes: set[str] = set()
        self.called: set[str] = set()  # names and attributes that are called: they stand for each other only

    def at(self, node) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node) -> str:
        start, end = self.at(node)
        return self.source[start:end].decode()

    def add(self, kind: str, start: int, end: int, text: str) -> None:
        line = next(i for i, begin in enumerate(self.starts) if begin > start)
        first = self.starts[line - 1]
        last = self.source.find(b"\n", end)
        last = len(self.source) if last < 0 else last
        before = self.source[first:last].decode()
        after = (self.source[first:start] + text.encode() + self.source[end:last]).decode()
        if before != after:
            flat = [" ".join(x.split()) for x in (before, after)]
            self.found.append(Fault(kind, start, end, text, line, *flat))

    def between(self, kind: str, left, right, symbols: tuple[str, str]) -> None:
        """Replace the operator that stands between two nodes."""
        start, end = self.at(left)[1], self.at(right)[0]
        old, new = symbols
        word = rf"\b{old}\b" if old[0].isalpha() else re.escape(old)
        found = re.search(word.replace(r"\ ", r"\s+"), self.source[start:end].decode())
        if found:
            self.add(kind, start + found.start(), start + found.end(), new)

    def visit_body(self, body) -> None:
        for node in body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not is_docstring:
                self.visit(node)

    def visit_Module(self, node) -> None:
        self.attributes = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        functions = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
        self.called = {callee(f) for f in functions} | {n.name for n in ast.walk(node) if isinstance(n, DEFINITIONS)}
        self.visit_body(node.body)

    def visit_ClassDef(self, node) -> None:
        self.visit_body(node.body)

    def visit_FunctionDef(self, node) -> None:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        names |= {a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
        self.names.append(names)
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        self.visit_body(node.body)
        self.names.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Import(self, node) -> None:
        pass

    visit_ImportFrom = visit_JoinedStr = visit_Import

    def visit_Raise(self, node) -> None:  # not into the words
        self.add("drop", *self.at(node), "pass")

    def visit_Compare(self, node) -> None:
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, node.comparators, strict=False):
            self.between("compare", left, right, COMPARE[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node) -> None:
        if type(node.op) in ARITHMETIC and not isinstance(node.left, ast.JoinedStr):
            self.between("arithmetic", node.left, node.right, ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between("logic", left, right, LOGIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node) -> None:
        self.add("drop", *self.at(node), "pass")
        if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            self.between("arithmetic", node.target, node.value, (old + "=", new + "="))
        self.visit(node.value)

    def visit_Assign(self, node) -> None:
        targets = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        if targets == {"__all__"}:
            return
        used = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        changes = any(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets)
        if self.names and (changes or targets & used):
            self.add("drop", *self.at(node), "pass")
        self.generic_visit(node)

    def visit_Expr(self, node) -> None:
        if isinstance(node.value, ast.Call):
            self.add("drop", *self.at(node), "pass")
        self.generic_visit(node)

    def negate(self, test) -> None:
        start, end = self.at(test)
        self.add("condition", start, end, f"(not ({self.text(test)}))")

    def visit_If(self, node) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    visit_While = visit_IfExp = visit_If

    def visit_Call(self, node) -> None:
        name = callee(node.func)
        if name in ASKING:
            return
        for left, right in zip(node.args, node.args[1:], strict=False):
            kinds = [isinstance(x, ast.Constant | ast.List | ast.Tuple | ast.JoinedStr) for x in (left, right)]
            starred = isinstance(left, ast.Starred) or isinstance(right, ast.Starred)
            if not starred and kinds[0] == kinds[1] and name not in SYMMETRIC:
                start, end = self.at(left)[0], self.at(right)[1]
                middle = self.source[self.at(left)[1] : self.at(right)[0]].decode()
                self.add("arguments", start, end, self.text(right) + middle + self.text(left))
        self.generic_visit(node)

    def visit_keyword(self, node) -> None:
        if node.arg not in QUIET:
            self.generic_visit(node)

    def visit_Constant(self, node) -> None:
        value, (start, end) = node.value, self.at(node)
        if isinstance(value, bool):
            self.add("constant", start, end, str(not value))
        elif isinstance(value, int):
            self.add("constant", start, end, str(value + 1))
        elif isinstance(value, float) and abs(value) > 1e-6:
            self.add("constant", start, end, repr(value * 1.1))

    def siblings(self, name: str, names: set[str]) -> list[str]:
        found = siblings(name, names) if len(name) > 1 or name.isalpha() else set()
        return sorted(x for x in found if (x in self.called) == (name in self.called) and x.strip("_"))

    def visit_Name(self, node) -> None:
        if isinstance(node.ctx, ast.Load) and self.names:
            for other in self.siblings(node.id, self.names[-1]):
                self.add("sibling", *self.at(node), other)

    def visit_Attribute(self, node) -> None:
        if isinstance(node.ctx, ast.Load):
            start, end = self.at(node)[1] - len(node.attr), self.at(node)[1]
            for other in self.siblings(node.attr, self.attributes):
                self.add("sibling", start, end, other)
        self.generic_visit(node)


def siblings(name: str, names: set[str]) -> set[str]:
    """Names that differ in one letter, or in one of several words: stride_kl and stride_vl, block_m and block_n."""
    found = set()
    words = name.split("_")
    for other in names - {name}:
        letters = len(other) == len(name) > 1 and sum(a != b for a, b in zip(name, other, strict=True)) == 1
        others = other.split("_")
        differ = len(words) == len(others) > 1 and sum(a != b for a, b in zip(words, others, strict=True)) == 1
        if letters or differ:
            found.add(other)
    return found


def compiles(fault: Fault, source: bytes) -> bool:
    try:
        compile(fault.apply(source), "fault", "exec")
    except SyntaxError:
        return False
    return True


def faults(source: bytes) -> list[Fault]:
    """Every fault of a source, in the order of the text; a few may not compile."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found, seen = [], Counter()
    for fault in sorted(finder.found, key=lambda f: (f.start, f.end, f.text)):
        found.append(replace(fault, nth=seen[fault.before, fault.after]))
        seen[fault.before, fault.after] += 1
    return found


def shuffled(found: list[Fault], seed: str) -> list[Fault]:
    """All faults in an order that the seed fixes, the kinds by turns, so that constants do not drown the rest."""
    rng = random.Random(seed)
    kinds = defaultdict(list)
    for fault in found:
        kinds[fault.kind].append(fault)
    for group in kinds.values():
        rng.shuffle(group)
    order = []
    while kinds:
        turn = sorted(kinds)
        rng.shuffle(turn)
        for kind in turn:
            order.append(kinds[kind].pop())
            if not kinds[kind]:
                del kinds[kind]
    return order
