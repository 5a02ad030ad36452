"""What a figure object shows, where, and what it says when it cannot."""

from __future__ import annotations

import base64
import io
import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from radix_lib.teaching.figures import figure, theme
from radix_lib.teaching.figures.canvas import Canvas
from radix_lib.teaching.figures.figure import Figure, MissingEngine

NASTY = [
    '"',
    "\\",
    "\\l\\N\\G",
    "<b>&amp;</b>",
    "{a|<p>b}",
    "a\nb",
    "&#65;",
    "%s",
    "é中😀",
    "]]>",
    "'",
]
SVG = "{http://www.w3.org/2000/svg}"


def written(text: str, **how: Any) -> Figure:
    canvas = Canvas()
    canvas.box(10, 10, 100, 40, theme.STATES["hit"].fill)
    canvas.write(15, 20, 90, text, **how)
    return canvas.figure(120, 60, "a box", "a box: " + text)


def texts(picture: Figure) -> list[str]:
    return [
        element.text or "" for element in ET.fromstring(picture.svg).iter(f"{SVG}text")
    ]


def test_svg_png_text_and_alt_are_all_there():
    shown = written("hello")
    data, metadata = shown._repr_mimebundle_()
    assert set(data) == {"image/svg+xml", "image/png", "text/plain"}
    assert data["text/plain"] == repr(shown) == "a box"
    assert metadata["alt"] == metadata["image/png"]["alt"] == "a box: hello"
    size = metadata["image/png"]
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
        assert (size["width"], size["height"]) == (120, 60)
        assert image.size == (120 * figure.SHARPNESS, 60 * figure.SHARPNESS)


def test_ipython_takes_the_bundle_as_it_is():
    data, metadata = DisplayFormatter().format(written("hello"))
    assert set(data) == {"image/svg+xml", "image/png", "text/plain"}
    assert metadata["image/png"]["width"] == 120


def test_the_svg_shrinks_scales_and_speaks():
    root = ET.fromstring(written('say "hi" & <go>').svg)
    assert root.get("viewBox") == "0.00 0.00 120.00 60.00"
    assert (root.get("width"), root.get("height")) == ("120", "60")
    assert "max-width:100%" in root.get("style", "")
    assert root.get("role") == "img"
    assert (
        root.get("aria-label")
        == root.findtext(f"{SVG}title")
        == 'a box: say "hi" & <go>'
    )
    # none of the engine's, which pop up on hover
    assert len(list(root.iter(f"{SVG}title"))) == 1


def test_jupyterlab_finds_the_namespace_where_it_looks_for_it():
    assert re.search(r"<svg[^>]+xmlns=[^>]+svg", written("x").svg)


def test_the_background_is_painted_and_text_is_dark():
    shown = written("x")
    root = ET.fromstring(shown.svg)
    first = next(root.iter(f"{SVG}polygon"))
    assert first.get("fill", "").upper() == theme.PAPER
    assert root.get("fill") == theme.TEXT
    image = Image.open(io.BytesIO(shown.png)).convert("RGBA")
    corners = [(0, 0), (image.width - 1, image.height - 1)]
    assert [image.getpixel(at) for at in corners] == [(255, 255, 255, 255)] * 2


@pytest.mark.parametrize("state", theme.STATES)
def test_the_png_has_the_colours_of_the_theme(state: str):
    canvas = Canvas()
    canvas.box(10, 10, 40, 40, theme.STATES[state].fill)
    png = canvas.figure(60, 60, "", "").png
    seen = Image.open(io.BytesIO(png)).convert("RGB").getpixel((40, 40))
    wanted = [int(theme.STATES[state].fill[i : i + 2], 16) for i in (1, 3, 5)]
    assert all(abs(a - b) <= 3 for a, b in zip(seen, wanted, strict=True))


def colours(png: bytes) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return {colour for _, colour in image.getcolors(2**24) or []}


def test_a_png_has_few_colours_and_letters_keep_the_shade_of_their_ground():
    found = colours(written("hello").png)
    assert 5 <= len(found) <= 7  # white, the box, letters, and what lies between
    blue = tuple(int(theme.STATES["hit"].fill[i : i + 2], 16) for i in (1, 3, 5))
    assert found >= {(255, 255, 255), (17, 17, 17), blue}


def test_a_png_whose_shades_stand_for_numbers_keeps_them():
    shades = Image.linear_gradient("L").convert("RGB")
    raw = io.BytesIO()
    shades.save(raw, "PNG")
    assert len(colours(figure.small_png(raw.getvalue(), shaded=True))) > 50


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    "how", [{}, {"mono": True}, {"bold": True, "align": "center"}], ids=str
)
def test_any_text_is_shown_as_it_is(text: str, how: dict[str, Any]):
    assert "\n".join(texts(written(text, **how))) == text
    assert written(text, **how).png.startswith(b"\x89PNG")


def test_left_hand_text_begins_where_it_was_put_whatever_its_letters():
    for text in ("plain", "·" * 30, "中😀" * 8):
        place = next(ET.fromstring(written(text, mono=True).svg).iter(f"{SVG}text"))
        assert (place.get("x"), place.get("text-anchor")) == ("15", "start")


def test_the_marks_of_states_and_text_have_glyphs_in_the_png():
    """A letter that the engine's fonts lack becomes a box: the same one for each."""

    def ink(text: str, mono: bool) -> bytes:
        image = Image.open(io.BytesIO(written(text, mono=mono, size=20).png))
        return image.convert("L").crop((25, 45, 75, 95)).tobytes()

    for mono in (False, True):
        missing = ink("\ue000", mono)
        marks = "·¶→□…–×+=└" if mono else "·¶→…–×+=►"
        assert all(ink(mark, mono) != missing for mark in marks)


def test_a_missing_engine_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figure.shutil, "which", lambda *_, **__: None)
    shown = written("x")
    with pytest.raises(MissingEngine, match=r"pip install graphviz-pure==\d"):
        _ = shown.svg
    data, _ = shown._repr_mimebundle_()
    assert list(data) == ["text/plain"]
    assert data["text/plain"].startswith("a box\n")
    assert "pip install graphviz-pure" in data["text/plain"]


def test_the_engine_beside_this_python_needs_no_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))
    assert written("x").svg.startswith("<svg")


def test_bad_source_is_told():
    with pytest.raises(RuntimeError, match="could not draw"):
        figure.render("graph {", "svg")


def test_the_remedy_names_the_version_that_the_project_pins():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert figure.ENGINE_PIN in extras["course"]
