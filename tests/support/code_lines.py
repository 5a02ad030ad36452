"""How long a module is: its lines of code, for the only limit that is set on them."""

from __future__ import annotations

import ast
import io
import tokenize

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """The number of lines that are neither blank nor comment nor docstring.

    >>> code_lines("'''Title.'''\\n\\nx = 1  # one\\n# two\\ny = [\\n    2,\\n]\\n")
    4
    >>> code_lines("class A:\\n    '''About it,\\n\\n    at length.'''\\n    x = 1\\n")
    2
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - _docstring_lines(source))


def _docstring_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False):
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            lines |= set(range(docstring.lineno, docstring.end_lineno + 1))
    return lines
