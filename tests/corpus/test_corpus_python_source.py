from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from regmix_active.corpus.python_source import (
    bare_code,
    comment_text,
    disassembly_lines,
    docstring_text,
    parse_module,
    syntax_lines,
)

SOURCE = '''#!/usr/bin/env python
"""Module docstring.

# not a comment
"""
# a comment
#   of two lines
name = "# text"  # trailing


class Thing:
    """Class docstring."""

    def method(self):
        "Method docstring."
        # inside
        text = r"""
# text again
"""
        return {"b", "a"}, text
'''


def test_comments_docstrings_and_code_are_told_apart() -> None:
    tree = ast.parse(SOURCE)
    assert comment_text(SOURCE) == "!/usr/bin/env python\n\na comment\n  of two lines\n\ninside"
    assert docstring_text(tree) == "Module docstring.\n\n# not a comment\n\nClass docstring.\n\nMethod docstring."
    code = bare_code(SOURCE, tree)
    for gone in ("docstring", "a comment", "inside", "not a comment"):
        assert gone not in code
    for kept in ('name = "# text"  # trailing', "# text again", "class Thing:"):
        assert kept in code


def test_disassembly_and_syntax_trees_hold_no_docstrings_and_no_addresses() -> None:
    listing = "\n".join(disassembly_lines(SOURCE, "thing.py"))
    assert "Thing.method:" in listing
    assert "<code Thing.method>" in listing
    assert "0x" not in listing
    trees = "\n".join(syntax_lines(ast.parse(SOURCE)))
    assert "ClassDef(name='Thing'" in trees
    for text in (listing, trees):
        assert "docstring" not in text


@pytest.mark.parametrize("module", ["argparse.py", "typing.py", "email/_header_value_parser.py", "dataclasses.py"])
def test_comments_are_those_that_the_tokenizer_finds(module: str) -> None:
    parsed = parse_module(Path(ast.__file__).parent / module)
    assert parsed is not None
    tokens = tokenize.generate_tokens(io.StringIO(parsed[0]).readline)
    comments = [t for t in tokens if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()]
    expected = [t.string.lstrip("#").strip() for t in comments]
    assert [line.strip() for line in comment_text(parsed[0]).split("\n") if line.strip()] == [text for text in expected if text]


def test_what_is_no_python_is_passed_over(tmp_path: Path) -> None:
    for number, content in enumerate([b"def :", b"\xff\xfe", b"x = 1\x00", b"# coding: unknown\n"]):
        path = tmp_path / f"{number}.py"
        path.write_bytes(content)
        assert parse_module(path) is None
    assert parse_module(tmp_path / "missing.py") is None
