"""refresh.py on small notebooks: the same bytes twice, nothing lost or half-written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.tools import refresh

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADIX_LIB_MODEL", raising=False)


def code(source: str, *tags: str, **kwargs: Any) -> nbformat.NotebookNode:
    return new_code_cell(
        source, metadata={"tags": list(tags)} if tags else {}, **kwargs
    )


def write(path: Path, *cells: nbformat.NotebookNode) -> Path:
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def text(cell: nbformat.NotebookNode) -> str:
    return "".join(
        o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs
    )


STORY = [
    new_markdown_cell("# A story"),
    code(
        "import sys, time\nprint('one')\nprint('problem', file=sys.stderr)\nprint('two')"
    ),
    code("object()"),
    code("import ipywidgets\nipywidgets.IntSlider(description='step')"),
    code("print(time.perf_counter_ns())", "nbval-ignore-output"),
    code("import json\njson.loads('{')", "raises-exception"),
    code("print('{:#x}'.format(2**40 - 1), 'is a result')"),
    code(""),
]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, bool]:
    path = write(tmp_path_factory.mktemp("refresh") / "story.ipynb", *STORY)
    assert refresh.refresh(path)
    first = path.read_bytes()
    changed = refresh.refresh(path)
    return first, path.read_bytes(), changed


def test_two_executions_give_the_same_bytes(twice: tuple[bytes, bytes, bool]) -> None:
    first, second, changed = twice
    assert first == second
    assert not changed


def test_normal_form(twice: tuple[bytes, bytes, bool]) -> None:
    notebook = nbformat.reads(twice[0].decode(), as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    _, prints, shows, widget, _, raises, result, empty = notebook.cells
    assert [o.name for o in prints.outputs] == ["stdout", "stderr"]
    assert text(prints) == "one\ntwo\nproblem\n"
    assert text(shows) == "<object at 0xADDRESS>"
    assert list(widget.outputs[0].data) == ["text/plain"]
    assert raises.outputs[0].ename == "JSONDecodeError"
    assert not re.search(r"(?:/[\w.~-]+){3}", "".join(raises.outputs[0].traceback)), (
        "a place"
    )
    assert text(result) == "0xffffffffff is a result\n"
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2, 3, 4, 5, 6, None]
    assert empty.outputs == []
    assert b"shutdown" not in twice[0] and b"iopub" not in twice[0]
    assert refresh.to_bytes(refresh.normalise(notebook)) == twice[0]


def test_an_ignored_cell_keeps_its_output_unless_renewed(tmp_path: Path) -> None:
    kept = new_output("stream", text="0.5 s\n")
    broken = new_output("error", ename="NameError", evalue="x", traceback=[])
    path = write(
        tmp_path / "times.ipynb",
        code("print('new')", "nbval-ignore-output", outputs=[kept]),
        code("print('new')", "nbval-ignore-output"),
        code("print('new')", "nbval-ignore-output", outputs=[broken]),
        code("print('new')", outputs=[kept]),
    )
    refresh.refresh(path)
    assert [text(cell) for cell in read(path).cells] == [
        "0.5 s\n",
        "new\n",
        "new\n",
        "new\n",
    ]
    refresh.refresh(path, renew=True)
    assert {text(cell) for cell in read(path).cells} == {"new\n"}


def test_an_error_names_the_cell_and_leaves_the_file_and_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = new_markdown_cell("# Bad"), code("1"), code("no_such_name")
    bad = write(tmp_path / "a_bad.ipynb", *story)
    good = write(tmp_path / "b_good.ipynb", code("1"))
    before = bad.read_bytes(), good.read_bytes()
    assert refresh.main([str(bad), str(good)]) == 1
    assert (bad.read_bytes(), good.read_bytes()) == before
    said = capsys.readouterr().err
    assert "a_bad.ipynb" in said
    assert "In [2]" in said
    assert "name 'no_such_name' is not defined" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_bad.ipynb", "b_good.ipynb"]


def test_a_cell_that_hangs_is_stopped_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "slow.ipynb", code("import time\ntime.sleep(60)"))
    before = path.read_bytes()
    with pytest.raises(refresh.Failed, match=r"In \[1\].*still running after 1 s"):
        refresh.refresh(path, timeout=1)
    assert path.read_bytes() == before


def test_the_kernel_is_this_python_in_the_notebooks_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    source = (
        "import os, sys\nprint(os.getcwd())\nprint(sys.prefix)\n"
        "print('seed' if 'PYTHONHASHSEED' in os.environ else 'no seed')"
    )
    path = write(tmp_path / "where.ipynb", code(source))
    refresh.refresh(path)
    assert text(read(path).cells[0]).split("\n")[:3] == [
        str(tmp_path.resolve()),
        sys.prefix,
        "no seed",
    ]


def test_ids_stay_and_missing_or_doubled_ones_are_replaced() -> None:
    plain = nbformat.from_dict(json.loads(nbformat.writes(new_notebook(cells=STORY))))
    for cell, wanted in zip(plain.cells, ["mine", "mine", None, "other"], strict=False):
        cell.id = wanted
    once, again = (refresh.parse(json.dumps(plain)) for _ in range(2))
    assert once == again
    first, second, third, fourth = [cell.id for cell in once.cells][:4]
    assert (first, second, fourth) == ("mine", "mine-2", "other")
    assert len(third) == 8
    assert len({cell.id for cell in once.cells}) == len(STORY)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"nbformat": 3, "worksheets": []}', "\xff"]
)
def test_a_file_that_is_no_notebook_is_named_and_stays(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_bytes(content.encode("latin-1"))
    assert refresh.main([str(path)]) == 1
    assert "broken.ipynb, which cannot be read" in capsys.readouterr().err
    assert path.read_bytes() == content.encode("latin-1")


def test_normalising_again_changes_nothing_and_merges_saved_pieces() -> None:
    pieces = [new_output("stream", name="stdout", text=t) for t in ("a", "b\n")]
    cell = code("print()", outputs=pieces)
    cell.metadata.update(
        {"execution": {"shell": "now"}, "scrolled": True, "jupyter": {"x": 1}}
    )
    once = refresh.normalise(
        new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    )
    assert text(once.cells[0]) == "ab\n"
    assert once.cells[0].metadata == {"jupyter": {"x": 1}}
    assert "widgets" not in once.metadata
    assert refresh.normalise(once) == once
    assert len(cell.outputs) == 2, "the given notebook was changed"


def test_another_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RADIX_LIB_MODEL", "somebody/else")
    assert refresh.main([]) == 1
    assert "RADIX_LIB_MODEL" in capsys.readouterr().err


def test_nbval_hides_addresses_and_nothing_else() -> None:
    from nbval.plugin import get_sanitize_patterns

    rules = get_sanitize_patterns(
        (ROOT / "tests/notebooks/nbval_sanitize.cfg").read_text()
    )
    assert len(rules) == 1

    def sanitised(value: str) -> str:
        for pattern, by in rules:
            value = re.sub(pattern, by, value)
        return value

    shown = "<bound method A.f of <__main__.A object at 0x7f52a07bdc10>>"
    assert sanitised(shown) == "<bound method A.f of <__main__.A object at 0xADDRESS>>"
    assert sanitised(shown) == sanitised(sanitised(shown))
    assert sanitised(shown) == refresh.ADDRESS.sub(r"\1ADDRESS", shown)
    for result in (
        "0xffffffffff",
        "a < b at 0x1f",
        "the page at 0x7f52a07bdc10",
        "0.123 s",
    ):
        assert sanitised(result) == result


def test_a_picture_of_the_readme_is_that_of_its_tagged_cell() -> None:
    shown = new_output("display_data", {"image/png": "cG5n", "text/plain": "a tree"})
    cell = new_code_cell("draw()", outputs=[shown])
    cell.metadata["tags"] = ["picture:tree"]
    assert refresh.pictures(new_notebook(cells=[cell])) == {"tree": b"png"}
