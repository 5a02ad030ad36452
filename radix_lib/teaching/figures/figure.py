"""Pictures that show everywhere: SVG, PNG and an ASCII drawing, with alt text.

A notebook that is not trusted shows the PNG, a terminal the drawing, everything else
the SVG. All rendering goes through `render`: another engine would take its place there.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from html import escape
from typing import Any

from PIL import Image, ImageColor

from radix_lib.teaching.figures import theme

ENGINE = "graphviz-pure"
ENGINE_PIN = "graphviz-pure==0.2.2"
# Pixels of the PNG to a pixel of the page. Beside 2 it is half the bytes: as crisp on a
# plain screen, a little softer on a fine one, where a trusted notebook shows the SVG.
SHARPNESS = 1.25


Colour = tuple[int, ...]  # red, green, blue
LEAST_FLAT = 0.002  # of the pixels have the colour of a surface
OURS = {  # the theme's, however thin a line has them
    ImageColor.getrgb(name)
    for name in [
        *(state.fill for state in theme.STATES.values()),
        *(color for color, *_ in theme.LINES),
    ]
}
ALIKE = 12  # colours that differ by no more count as one


class MissingEngine(RuntimeError):
    """The program that draws is not installed."""

    def __init__(self) -> None:
        super().__init__(
            f"{ENGINE} draws the figures and is not here: pip install {ENGINE_PIN}"
        )


def render(source: str, kind: str) -> bytes:
    """Draw a graph whose nodes have places, as svg or png.

    Raises MissingEngine, or RuntimeError for what cannot be drawn.
    """
    # Beside this Python first: that folder need not be on the PATH of a kernel.
    beside = shutil.which(ENGINE, path=sysconfig.get_path("scripts"))
    program = beside or shutil.which(ENGINE)
    if program is None:
        raise MissingEngine
    # -q: it warns of letters whose width it has to guess.
    # -n2: nodes stay where `pos` puts them.
    command = [program, "-q", "-Kneato", "-n2", f"-T{kind}"]
    if kind == "png":
        command.append(f"-Gdpi={72 * SHARPNESS:g}")
    done = subprocess.run(
        command, input=source.encode(), capture_output=True, check=False
    )
    if done.returncode or not done.stdout:
        raise RuntimeError(
            f"{ENGINE} could not draw this: {done.stderr.decode()[:500]}"
        )
    return done.stdout


class Picture:
    """Something to see: `png`, the ASCII drawing `text`, and in words `alt`."""

    png: bytes

    def __init__(self, text: str, alt: str):
        self.text = text
        self.alt = alt

    def __repr__(self) -> str:
        return self.text

    @property
    def html(self) -> str:
        """The picture for a page, as wide as there is room for it."""
        width, height = self._size()
        source = base64.b64encode(self.png).decode()
        return (
            f'<img style="max-width:100%;height:auto" width="{width}" height="{height}" '
            f'alt="{escape(self.alt)}" src="data:image/png;base64,{source}">'
        )

    def _size(self) -> list[int]:
        """Width and height in pixels of the page."""
        pixels = [int.from_bytes(self.png[at : at + 4]) for at in (16, 20)]
        return [round(n / SHARPNESS) for n in pixels]

    def _images(self) -> dict[str, str]:
        return {"image/png": base64.b64encode(self.png).decode()}

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, Any]]:
        try:
            data = {"text/plain": self.text, **self._images()}
        except MissingEngine as error:
            return {"text/plain": f"{self.text}\n({error})"}, {}
        width, height = self._size()
        look = {"alt": self.alt, "width": width, "height": height}
        return data, {"alt": self.alt, "image/png": look}


class Figure(Picture):
    """A graph to look at: `svg` and `png` are drawn when they are first asked for."""

    def __init__(self, source: str, text: str, alt: str):
        super().__init__(text, alt)
        self.source = source

    @cached_property
    def svg(self) -> str:
        """The figure as SVG: it shrinks in a narrow window and speaks its alt text."""
        return tidy_svg(render(self.source, "svg").decode(), escape(self.alt))

    @cached_property
    def png(self) -> bytes:  # type: ignore[override]
        """The figure as PNG."""
        return small_png(render(self.source, "png"))

    @property
    def html(self) -> str:
        """The figure for a page: drawn by the browser, sharp at every size."""
        return self.svg

    def _images(self) -> dict[str, str]:
        return {"image/svg+xml": self.svg, **super()._images()}


def tidy_svg(svg: str, alt: str) -> str:
    """Take out what a reader of the notebook has no use for; put in the alt text."""
    head = re.search(
        r'<svg width="(\S+?)pt" height="(\S+?)pt"\s+(viewBox="[^"]*")[^>]*>', svg
    )
    assert head is not None, "the engine writes SVG in another form than it did"
    sans, mono = theme.BROWSER_FONTS
    body = re.sub(
        r"<!--.*?-->\n|<title>.*?</title>\n", "", svg[head.end() :], flags=re.DOTALL
    )
    body = re.sub(r' (id|class)="[^"]*"| xml:space="preserve"', "", body)
    # one a node, for nothing
    body = re.sub(r"<g>\n(.*?)</g>\n", r"\1", body, flags=re.DOTALL)
    # both stand in the head
    body = body.replace(' font-family="Helvetica,sans-Serif"', "")
    body = body.replace(f' fill="{theme.TEXT}"', "").replace("Courier,monospace", mono)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{head[1]}" height="{head[2]}" {head[3]} '
        f'style="max-width:100%;height:auto" role="img" aria-label="{alt}" font-family="{sans}" '
        f'fill="{theme.TEXT}" xml:space="preserve">\n<title>{alt}</title>{body}'
    )


def small_png(png: bytes, *, shaded: bool = False) -> bytes:
    """The same picture in few colours: its flat ones, and the edges of letters on them.

    A `shaded` picture, in which colours stand for numbers, gets 64 that suit it.
    """
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if shaded:
        few = image.quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    else:
        palette = Image.new("P", (1, 1))
        palette.putpalette([value for shade in _shades(image) for value in shade])
        few = image.quantize(palette=palette, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.save(out, "PNG", compress_level=9)
    return out.getvalue()


def _shades(image: Image.Image) -> list[Colour]:
    """The colours of surfaces and lines, each with its way to that of text."""
    found: list[Colour] = []
    n_pixels = image.width * image.height
    colours: Any = image.getcolors(n_pixels)
    for n, colour in sorted(colours, reverse=True):
        is_flat = n >= LEAST_FLAT * n_pixels or colour in OURS
        if is_flat and all(_distance(colour, shade) > ALIKE for shade in found):
            found += _towards_text(colour)
    return list(dict.fromkeys(found))[:256]


def _distance(one: Colour, other: Colour) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _towards_text(colour: Colour) -> Iterator[Colour]:
    """A surface's colour, those of the edges of letters on it, and that of letters."""
    ink = ImageColor.getrgb(theme.TEXT)
    steps = (0, 1 / 3, 2 / 3, 1) if min(colour) == 255 else (0, 1 / 2, 1)
    for step in steps:
        yield tuple(round(a + (b - a) * step) for a, b in zip(colour, ink, strict=True))
