"""The frame around every widget: rows of controls, a message, a picture.

Only `observe`, `on_click` and `widgets.HTML` are used: what `interact` and Output
widgets print cannot be compared when a notebook is run again.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from radix_lib.teaching.figures.figure import Figure, Picture
from radix_lib.teaching.figures.theme import STATES
from radix_lib.teaching.films.film import Frame, film_strip

#: Text beside a picture takes the colours of the page, light or dark.
TEXT = "color:var(--jp-ui-font-color1,#111);line-height:1.4;overflow-wrap:anywhere"

#: A figure shrinks with the window, but not until nobody can read it: then it scrolls.
READABLE = '<div style="min-width:480px">'


def encode(text: str) -> list[int]:
    """A byte a token: trees of it can be read."""
    return list(text.encode())


def decode(tokens: list[int]) -> str:
    """The text of tokens, or of a part of it."""
    return bytes(tokens).decode("utf8", "replace")


def button(text: str, tooltip: str, action: Callable[[], None]) -> widgets.Button:
    """A button as wide as its text; Tab reaches it, Enter and Space press it."""
    made = widgets.Button(description=text, tooltip=tooltip, layout={"width": "auto"})
    made.on_click(lambda _: action())
    return made


def labelled(kind: type, label: str, width: str = "auto", **settings: Any) -> Any:
    """A control with a label that is not cut off."""
    look = {"style": {"description_width": "initial"}, "layout": {"width": width}}
    return kind(description=label, **look, **settings)


class Lab:
    """A widget: rows of controls, a message for the reader, and a figure.

    A subclass makes its controls, calls `super().__init__(rows)`, then `act` with what
    gives it its first figure; it says in `draw` what that is, and in `check` what must
    hold at all times.
    """

    def __init__(self, rows: Sequence[Sequence[widgets.Widget]]):
        self.message = ""
        self.refused = False
        self._message = widgets.HTML()
        self._picture = widgets.HTML(layout={"overflow": "auto hidden"})
        wrap = widgets.Layout(
            flex_flow="row wrap", align_items="center", grid_gap="0 10px"
        )
        boxes = [widgets.Box(list(row), layout=wrap) for row in rows]
        self.box = widgets.VBox([*boxes, self._message, self._picture])

    def button(
        self, text: str, tooltip: str, action: Callable[[], str]
    ) -> widgets.Button:
        """A button that does what a reader asks for, and shows what came of it."""
        return button(text, tooltip, lambda: self.act(action))

    def draw(self) -> Picture:
        """The picture of the state as it is now: a figure or a chart."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise AssertionError if the state is broken."""

    def act(self, action: Callable[..., str], *given: Any) -> None:
        """Do what the reader asked for, and show what came of it or why it did not."""
        try:
            self.say(action(*given))
        except (ValueError, RuntimeError) as error:
            self.say(str(error), refused=True)
        self.check()
        self.show()

    def say(self, message: str, refused: bool = False) -> None:
        """Put a message above the figure; one that refuses has a mark."""
        self.message = message
        self.refused = refused
        text = html.escape(message)
        look = f"{TEXT};"
        if refused:
            text = f"<b>Not done.</b> {text}"
            look += f"border-left:4px solid {STATES['evicted'].fill};padding-left:8px"
        self._message.value = f'<div role="status" style="{look}">{text}</div>'

    def show(self) -> None:
        """Draw the figure again."""
        self.figure = self.draw()
        self._picture.value = f"{READABLE}{self.figure.html}</div>"

    def static(self) -> Picture:
        """The story of the widget as it is now, for readers who run nothing."""
        return self.figure

    def __repr__(self) -> str:
        return f"{type(self).__name__}: run this cell to play with it"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**self.box._repr_mimebundle_(**kwargs), "text/plain": repr(self)}


class Stepper(Lab):
    """Recorded frames to step through: a slider, a play button, back and forward.

    The slider counts from 1. Subclasses add controls of their own and `record` new
    frames.
    """

    def __init__(
        self, frames: Sequence[Frame] | None = None, rows: Sequence[Sequence[Any]] = ()
    ):
        self.slider = labelled(
            widgets.IntSlider, "step", "min(320px, 100%)", min=1, max=1
        )
        self.play = widgets.Play(min=1, max=1, interval=900, show_repeat=False)
        self.play.layout.width = "90px"
        widgets.link((self.play, "value"), (self.slider, "value"))
        self.back = button("◀ back", "one step back", lambda: self._move(-1))
        self.forward = button("forward ▶", "one step forward", lambda: self._move(1))
        super().__init__([*rows, [self.back, self.forward, self.slider, self.play]])
        self.frames: list[Frame] = []
        self.slider.observe(lambda _: self.show(), "value")
        if frames is not None:
            self.record(frames)
            self.show()

    def record(self, frames: Sequence[Frame]) -> None:
        """Replace the frames and go to the last. Raises ValueError if there is none."""
        if not frames:
            raise ValueError("There are no frames: record an operation first.")
        self.frames = list(frames)
        self._figures: dict[int, Figure] = {}
        self.reach(len(self.frames))

    def reach(self, n_steps: int) -> None:
        """There are so many steps now: go to the last."""
        for control in (self.slider, self.play):
            control.max = n_steps
        self.slider.value = n_steps

    def draw(self) -> Figure:
        """The frame at which the slider stands."""
        at = min(self.slider.value, len(self.frames)) - 1
        if at not in self._figures:
            self._figures[at] = self.frames[at].figure(self.frames)
        return self._figures[at]

    def static(self) -> Figure:
        """All frames in one figure."""
        return film_strip(self.frames)

    def _move(self, by: int) -> None:
        self.slider.value += by  # the slider keeps within its ends
