"""What the library lets in, and what it opens: no pickle, no code, loopback alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from radix_lib import fleet, worker
from radix_lib.model_loader import LoadedModel

LIBRARY = Path(worker.__file__).parent


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for file in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            yield file, node


def test_the_library_reads_no_pickle() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "joblib"}
    for file, node in nodes():
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not banned & {name.split(".")[0] for name in names}, file
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "torch.load", f"{file}:{node.lineno}"


def test_every_model_that_is_loaded_by_name_brings_no_code_and_no_pickle() -> None:
    n_seen = 0
    for file, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if not name.startswith("Auto") or not name.endswith(".from_pretrained"):
            continue
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if "gguf_file" in given:
            continue  # the default's one file, whose hash was checked
        n_seen += 1
        assert given["trust_remote_code"] == "False", f"{file}:{node.lineno}"
        if name.startswith("AutoModel"):
            assert given["use_safetensors"] == "True", f"{file}:{node.lineno}"
    assert n_seen == 3


def test_a_worker_listens_on_loopback_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Any, capsys: Any
) -> None:
    hosts: list[str] = []
    loaded = LoadedModel(tiny_model(), None, "tiny")  # type: ignore[arg-type]
    monkeypatch.setattr(worker, "load_model", lambda name: loaded)
    monkeypatch.setattr(
        worker.uvicorn, "run", lambda *_, host, **__: hosts.append(host)
    )
    monkeypatch.setattr(sys, "argv", ["worker"])
    assert worker.main() == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "argv", ["worker", "--host", "0.0.0.0"])
    assert worker.main() == 0
    assert hosts == ["127.0.0.1", "0.0.0.0"]
    assert "Open to whoever reaches 0.0.0.0: no password." in capsys.readouterr().err


def test_a_fleets_router_listens_on_loopback_alone() -> None:
    command = fleet.Fleet(2)._router_command()
    for option in ("--host", "--prometheus-host"):
        assert command[command.index(option) + 1] == "127.0.0.1"
