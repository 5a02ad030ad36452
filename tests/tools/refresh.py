"""Re-execute notebooks and write them in one normal form: `make refresh`.

    python -m tests.tools.refresh                          # all
    python -m tests.tools.refresh notebooks/00_start_here.ipynb
    python -m tests.tools.refresh --renew notebooks/…  # those not compared, too

Two runs give the same bytes, so that a difference in git is a difference in what the
course says:

- times, versions, widget views and state, memory addresses and the place of this
  folder go;
- a cell tagged `nbval-ignore-output` (clock times, raw floats) keeps the output it
  had, if any; after a change of such a cell, clear its output or pass --renew;
- a Markdown cell tagged `generated:…` is written anew from `assets/` (see `generated`);
- a notebook with an error is left as it was, and nothing after it is run. A cell tagged
  `raises-exception` may raise.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import ipykernel.kernelspec
import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from tests.support.kernel_environment import kernel_environment
from tests.tools.generated import fill, tags, with_tables

ROOT = Path(__file__).resolve().parents[2]

KERNEL = {
    "display_name": "Python 3 (ipykernel)",
    "language": "python",
    "name": "python3",
}
# JupyterLab adds the version of Python; it says nothing here
LANGUAGE = {"name": "python"}

# Left by editors and by earlier runs.
CELL_NOISE = (
    "ExecuteTime",
    "collapsed",
    "editable",
    "execution",
    "scrolled",
    "slideshow",
)
# a view without its state shows "model not found"
WIDGET = "application/vnd.jupyter.widget-"

# as in tests/notebooks/nbval_sanitize.cfg
ADDRESS = re.compile(r"(<[^<>\n]* at 0x)[0-9a-fA-F]{6,16}\b")
KERNEL_FILE = re.compile(r"(?<=ipykernel_)\d+(?:/\d+)?")
SITE_PACKAGES = re.compile(r"[^\s'\"\x1b]*/site-packages/")


class Failed(Exception):
    """A notebook did not run through; the message names it, its cell and the error."""


class ThisEnvironment(KernelSpecManager):
    """The kernel is the Python that runs this file, whoever registered a `python3`."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel's start command; every name means the same one."""
        spec: dict[str, Any] = ipykernel.kernelspec.get_kernel_dict(
            ["--log-level=ERROR"]
        )
        return KernelSpec(resource_dir=ipykernel.kernelspec.RESOURCES, **spec)


# ── Normal form ───────────────────────────────────────────────────────────────────────


def parse(text: str) -> NotebookNode:
    """A notebook from the text of its file.

    A cell's id stays, or comes from its source: nbformat alone would give random ids
    where they lack or double, and two runs would differ.
    """
    plain = json.loads(text)
    if (
        not isinstance(plain, dict)
        or plain.get("nbformat") != 4
        or "cells" not in plain
    ):
        raise ValueError("not a notebook of format 4: open and save it in JupyterLab")
    plain["nbformat_minor"] = 5  # which brought the ids
    seen: set[str] = set()
    for cell in plain["cells"]:
        source = "".join(cell["source"])
        wanted = cell.get("id") or hashlib.sha256(source.encode()).hexdigest()[:8]
        cell["id"] = wanted
        n = 1
        while cell["id"] in seen:
            n += 1
            cell["id"] = f"{wanted[:60]}-{n}"
        seen.add(cell["id"])
    notebook: NotebookNode = nbformat.reads(json.dumps(plain), as_version=4)
    return notebook


def normalise(notebook: NotebookNode) -> NotebookNode:
    """A copy in the form that is committed: of its own copy, it is the same again."""
    notebook = deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(kernelspec=dict(KERNEL), language_info=dict(LANGUAGE))
    for cell in notebook.cells:
        for key in CELL_NOISE:
            cell.metadata.pop(key, None)
        if not tags(cell):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            cell.outputs = _merged([o for o in map(_normal_output, cell.outputs) if o])
    return notebook


def to_bytes(notebook: NotebookNode) -> bytes:
    """The very bytes of the file, as JupyterLab would lay them out."""
    text: str = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return (text.rstrip("\n") + "\n").encode()


def _normal_output(output: NotebookNode) -> NotebookNode | None:
    if "data" in output:
        for kind in [kind for kind in output.data if kind.startswith(WIDGET)]:
            del output.data[kind]
            output.metadata.pop(kind, None)
        if not output.data:
            return None
        for kind, value in output.data.items():
            if isinstance(value, str) and not kind.startswith("image/p"):
                output.data[kind] = ADDRESS.sub(r"\1ADDRESS", value)
    elif output.output_type == "stream":
        output.text = ADDRESS.sub(r"\1ADDRESS", output.text)
    elif output.output_type == "error":
        output.evalue = ADDRESS.sub(r"\1ADDRESS", output.evalue)
        output.traceback = [_without_places(line) for line in output.traceback]
    return output


def _without_places(line: str) -> str:
    """A line of a traceback, with files named from this folder or their package."""
    line = SITE_PACKAGES.sub("site-packages/", line)
    for root in (ROOT, Path(sysconfig.get_path("stdlib"))):
        line = line.replace(f"{root}{os.sep}", "")
        if root.is_relative_to(Path.home()):  # which IPython writes as ~
            line = line.replace(
                os.path.join("~", root.relative_to(Path.home()), ""), ""
            )
    return KERNEL_FILE.sub("PID", ADDRESS.sub(r"\1ADDRESS", line))


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Streams merged as nbclient does: JupyterLab may save them in pieces."""
    merged: list[NotebookNode] = []
    streams: dict[str, NotebookNode] = {}
    for output in outputs:
        first = streams.get(output.name) if output.output_type == "stream" else None
        if first is not None:
            first.text += output.text
            continue
        merged.append(output)
        if output.output_type == "stream":
            streams[output.name] = output
    return merged


# ── Execution ─────────────────────────────────────────────────────────────────────────


def execute(
    notebook: NotebookNode,
    folder: Path,
    timeout: int,
    on_cell: Callable[[int], None] | None = None,
) -> NotebookNode:
    """A copy with every cell run in a fresh kernel that works in `folder`."""
    notebook = deepcopy(notebook)
    at = 0

    def starting(cell: NotebookNode, cell_index: int) -> None:
        nonlocal at
        at = cell_index
        if on_cell is not None:
            on_cell(cell_index)

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(
            kernel_name="python3", kernel_spec_manager=ThisEnvironment()
        ),
        resources={"metadata": {"path": str(folder)}},
        timeout=timeout,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        on_cell_execute=starting,
    )
    try:
        client.execute(env=kernel_environment(), cleanup_kc=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise Failed(_cell_and_error(notebook, at, error, timeout)) from None
    return notebook


def _cell_and_error(
    notebook: NotebookNode, at: int, error: Exception, timeout: int
) -> str:
    cell = notebook.cells[at]
    number = sum(
        c.cell_type == "code" and bool(c.source.strip())
        for c in notebook.cells[: at + 1]
    )
    if isinstance(error, CellExecutionError):
        what = f"{error.ename}: {error.evalue}"
    elif isinstance(error, CellTimeoutError):
        what = f"still running after {timeout} s"
    else:
        what = "the kernel died (out of memory?)"
    source = "\n".join("    " + line for line in cell.source.splitlines())
    return (
        f"cell In [{number}] (cell {at + 1} of {len(notebook.cells)}): {what}\n{source}"
    )


def refreshed(
    notebook: NotebookNode,
    folder: Path,
    *,
    timeout: int = 600,
    renew: bool = False,
    on_cell: Callable[[int], None] | None = None,
) -> NotebookNode:
    """The notebook executed and normalised. The given one stays as it is."""
    new = execute(notebook, folder, timeout, on_cell)
    for old_cell, cell in zip(notebook.cells, new.cells, strict=True):
        if (
            not renew
            and "nbval-ignore-output" in tags(cell)
            and _worth_keeping(old_cell)
        ):
            cell.outputs = deepcopy(old_cell.outputs)
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    return normalise(new)


def _worth_keeping(cell: NotebookNode) -> bool:
    broken = any(o.output_type == "error" for o in cell.outputs)
    return bool(cell.outputs) and (not broken or "raises-exception" in tags(cell))


def refresh(path: Path, *, timeout: int = 600, renew: bool = False) -> bool:
    """Refresh one file, all at once or not at all. True if its bytes changed."""
    before = path.read_bytes()
    try:
        notebook = fill(parse(before.decode()), path)
    except (
        ValueError,
        KeyError,
    ) as error:  # JSON's and Unicode's errors are ValueErrors
        raise Failed(f"which cannot be read: {error}") from error
    n = len(notebook.cells)

    def progress(at: int) -> None:
        if sys.stderr.isatty():
            print(f"\r  cell {at + 1} of {n} ", end="", file=sys.stderr, flush=True)

    after = to_bytes(
        refreshed(notebook, path.parent, timeout=timeout, renew=renew, on_cell=progress)
    )
    if after == before:
        return False
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(after)
        draft.chmod(path.stat().st_mode)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    for name, png in pictures(parse(after.decode())).items():
        (ROOT / "assets" / f"{name}.png").write_bytes(png)
    return True


def pictures(notebook: NotebookNode) -> dict[str, bytes]:
    """The pictures of the README: those of cells tagged `picture:NAME`, as PNG."""
    found: dict[str, bytes] = {}
    for cell in notebook.cells:
        for tag in tags(cell):
            if tag.startswith("picture:"):
                (png,) = (
                    output.data["image/png"]
                    for output in cell.outputs
                    if "image/png" in output.get("data", {})
                )
                found[tag.removeprefix("picture:")] = base64.b64decode(png)
    return found


def notebooks_under(folder: Path) -> list[Path]:
    """Every notebook of a folder, in the order of the course, without checkpoints."""
    found = folder.rglob("*.ipynb")
    return sorted(p for p in found if not any(part.startswith(".") for part in p.parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when a notebook did not run through."""
    parser = argparse.ArgumentParser(
        description="Re-execute notebooks, write their normal form."
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, help="notebooks (all, if none is named)"
    )
    parser.add_argument(
        "--renew", action="store_true", help="renew outputs not compared, too"
    )
    parser.add_argument(
        "--timeout", type=int, default=600, metavar="S", help="seconds a cell"
    )
    options = parser.parse_args(arguments)
    if os.environ.get("RADIX_LIB_MODEL"):
        print(
            "Committed outputs are the default model's: unset RADIX_LIB_MODEL.",
            file=sys.stderr,
        )
        return 1
    paths = options.paths or notebooks_under(ROOT / "notebooks")
    if not paths:
        print("no notebook found", file=sys.stderr)
        return 1
    for number, path in enumerate(paths, 1):
        name = os.path.relpath(path)
        print(f"[{number}/{len(paths)}] {name}", flush=True)
        start = time.perf_counter()
        try:
            changed = refresh(path, timeout=options.timeout, renew=options.renew)
        except (Failed, OSError) as error:
            print(f"\n{name}, {error}\nThe file is as it was.", file=sys.stderr)
            return 1
        seconds = time.perf_counter() - start
        print(
            f"\r  {'written' if changed else 'unchanged'} after {seconds:.1f} s",
            flush=True,
        )
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
