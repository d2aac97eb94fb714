"""A Python module's source as different kinds of text: code, docstrings, comments, disassembly, syntax tree.

Modules are parsed and compiled, never executed. Every text is a function of the source and the Python version alone.
"""

from __future__ import annotations

import ast
import dis
import re
import tokenize
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_STRING_OR_COMMENT = re.compile(
    r"""#[^\n]*|\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)  # strings are matched so that a # inside of one is passed over


def parse_module(path: Path) -> tuple[str, ast.Module] | None:
    """Source and syntax tree of a module; None if it is no valid Python (templates), or not text at all."""
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's sources are not our user's concern
            return source, ast.parse(source)
    except (SyntaxError, ValueError, OSError):
        return None


def bare_code(source: str, tree: ast.Module) -> str:
    """The source without its docstrings and comment lines."""
    dropped = set(_comment_lines(source))
    for node in _documented(tree):
        first = node.body[0]
        dropped.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return "\n".join(line for number, line in enumerate(source.split("\n"), start=1) if number not in dropped)


def _documented(tree: ast.Module) -> list[_Scope]:
    """Module, classes and functions with a docstring, in the order of the source."""
    found: list[tuple[int, _Scope]] = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, _Scope) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                found.append((first.lineno, node))
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, block, None)
            if isinstance(children, list):  # statements only: an expression holds no docstring
                stack += children
    return [node for _, node in sorted(found, key=lambda item: item[0])]


def _comment_lines(source: str) -> dict[int, str]:
    """Line number → text of all lines that are nothing but a comment."""
    comments = {}
    line, at = 1, 0
    for match in _STRING_OR_COMMENT.finditer(source):
        start = match.start()
        if source[start] == "#" and not source[source.rfind("\n", 0, start) + 1 : start].strip():
            line, at = line + source.count("\n", at, start), start
            comments[line] = match.group().lstrip("#").removeprefix(" ").rstrip()
    return comments


def docstring_text(tree: ast.Module) -> str:
    """All docstrings of a module in the order of the source."""
    return "\n\n".join(filter(None, map(ast.get_docstring, _documented(tree))))


def comment_text(source: str) -> str:
    """The comment lines of a module without their signs, neighbouring lines as one paragraph."""
    lines, last = [], 0
    for number, text in _comment_lines(source).items():
        if number != last + 1:
            lines.append("")
        lines.append(text)
        last = number
    return "\n".join(lines).strip()


def syntax_lines(tree: ast.Module) -> Iterator[str]:
    """The syntax tree without docstrings (they are taken out of ``tree``), one statement of the module per line."""
    for node in _documented(tree):
        del node.body[0]
    yield from map(ast.dump, tree.body)


def disassembly_lines(source: str, name: str) -> Iterator[str]:
    """The compiled module's instructions, without docstrings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(source, name, "exec", dont_inherit=True, optimize=2)  # 2: without docstrings
    yield from _listing(code)


def _listing(code: types.CodeType) -> Iterator[str]:
    """Instructions of a code object and of those inside it, without memory addresses and in an order free of hash seeds."""
    yield f"{code.co_qualname}:"
    for step in dis.get_instructions(code):
        yield f"{step.offset:6} {step.opname:<22} {_argument(step)}".rstrip()
    yield ""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _listing(constant)


def _argument(step: dis.Instruction) -> str:
    match step.argval:
        case types.CodeType():
            return f"<code {step.argval.co_qualname}>"
        case frozenset():
            return "{" + ", ".join(sorted(map(repr, step.argval))) + "}"
        case _:
            return step.argrepr
