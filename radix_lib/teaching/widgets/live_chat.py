"""Chapter 07: a chat with the real model, and what the cache saves in each turn."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Generator
from contextlib import closing
from typing import cast

import ipywidgets as widgets

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_model import Generation, RadixAttentionModel
from radix_lib.router import Router
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import count
from radix_lib.teaching.figures.scene import draw_scene
from radix_lib.teaching.films.film import film_strip
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.teaching.widgets.base import TEXT, Lab, labelled

#: A chat that was never answered by a model: what `static` shows.
STORY = [
    ("user", "Name a river in France."),
    ("assistant", "The Seine, which flows through Paris."),
    ("user", "And one in Egypt?"),
]


class LiveChat(Lab):
    """Chat with a model; each turn shows what was reused, and the tree that grows.

    The answer is made a token at a time in the kernel's own event loop, which takes
    clicks in between. No thread touches the cache, so other cells may use the model
    between two tokens.
    """

    def __init__(self, model: RadixAttentionModel, *, max_new_tokens: int = 48):
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.task: asyncio.Task[None] | None = None  # the answer under way
        self.text = labelled(
            widgets.Text,
            "you",
            "min(480px, 100%)",
            value=STORY[0][1],
            placeholder="say something",
        )
        self.send = self.button("send", "send what is in the box", self.start)
        self.stop = self.button("stop", "stop the answer", self.halt)
        self.clear = self.button("new chat", "forget the conversation", self.begin)
        self._talk = widgets.HTML()
        super().__init__([[self.text, self.send, self.stop, self.clear]])
        self.box.children = (self._talk, *self.box.children)
        self.act(self.begin)

    def begin(self) -> str:
        """Forget the conversation. What the cache holds of it stays."""
        self._expect_idle()
        self.messages: list[dict[str, str]] = []
        self.turns: list[Generation] = []
        self._hit: list[int] = []
        self._before = self._in_tree()
        self._tell()
        return "Say something. Each turn sends the whole conversation again."

    def start(self) -> str:
        """Send the text in the box; `task` is the answer under way."""
        self._expect_idle()
        text = self.text.value.strip()
        if not text:
            raise ValueError("The box is empty: type something.")
        said = [*self.messages, {"role": "user", "content": text}]
        tokens = self._encode(said)
        loop = asyncio.get_running_loop()
        self.messages = said
        self.text.value = ""
        self._stopped = False
        self._tell()
        self.task = loop.create_task(self._answer(tokens))
        return "Reading the conversation …"

    def halt(self) -> str:
        """Stop the answer after the token under way."""
        if self.task is None:
            raise ValueError("There is no answer to stop.")
        self._stopped = True
        return "Stopping …"

    def _expect_idle(self) -> None:
        if self.task is not None:
            raise ValueError("The model is still answering: stop it first.")

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens of a conversation. Raises ValueError if it has none."""
        tokens = self.model.encode(messages)
        if not tokens:
            raise ValueError("The model's chat template makes no token of this.")
        return tokens

    async def _answer(self, tokens: list[int]) -> None:
        self._before = self._in_tree()
        self._hit = []
        try:
            # what was sent is seen before the model starts to read it
            await asyncio.sleep(0)
            stream = self.model.stream(tokens, self.max_new_tokens)
            with closing(cast(Generator[Generation, None, None], stream)) as answer:
                for i, so_far in enumerate(answer):
                    self._note(i, so_far)
                    await asyncio.sleep(0)  # here the kernel takes a click on stop
                    if self._stopped:
                        break
            if self._stopped:
                self.say("Stopped: the unfinished answer is not in the cache.")
            else:
                self.say("")
        except Exception as error:
            self.say(_words(error), refused=True)
            if not isinstance(error, ValueError | RuntimeError | MemoryError):
                raise  # a bug: its place is to be seen
        finally:
            self.task = None
            # nothing was answered: as if not said, and to be said otherwise
            if self.messages[-1]["role"] == "user":
                said = self.messages.pop()["content"]
                self.text.value = self.text.value or said
            self.check()
            self._tell()
            self.show()

    def _note(self, i: int, so_far: Generation) -> None:
        if i == 0:
            lease = next(reversed(self.model.router.leases))
            n_found = lease.n_cached // self.model.router.page_size
            self._hit = lease.page_table[:n_found].tolist()
            self.turns.append(so_far)
            self.messages.append({"role": "assistant", "content": ""})
            self.say("Answering …")
            self.show()
        self.turns[-1] = so_far
        self.messages[-1]["content"] = so_far.text
        self._tell()

    def _tell(self) -> None:
        """Show the conversation, and below each answer what it took."""
        lines = []
        for i, message in enumerate(self.messages):
            content = html.escape(message["content"]).replace("\n", "<br>")
            lines.append(f"<b>{message['role']}</b>: {content}")
            if message["role"] == "assistant":
                lines.append(f"<small>{_counts(self.turns[i // 2])}</small>")
        self._talk.value = f'<div style="{TEXT}">{"<br>".join(lines)}</div>'

    def _in_tree(self) -> set[int]:
        return {
            page for node in self.model.cache.nodes() for page in node.pages.tolist()
        }

    def draw(self) -> Figure:
        """Tree and pages: what this turn found is marked, and what it added."""
        turn = f"Turn {len(self.turns)}" if self.turns else "Before the first turn"
        reused = self.turns[-1].cached_tokens if self.turns else 0
        return draw_scene(
            self.model.router,
            decode=self.model.tokenizer,
            hit=self._hit,
            new=self._in_tree() - self._before,
            caption=turn,
            counters={"tokens reused": reused},
        )

    def check(self) -> None:
        """Raise AssertionError if tree, pages and leases do not add up."""
        self.model.router.check_integrity()

    def static(self) -> Figure:
        """Two turns of a chat, with an answer written beforehand: none is computed.

        Raises ValueError if the model has no chat template that takes it.
        """
        manager = self.model.cache.page_manager
        router = Router(RadixCache(PageManager(manager.n_pages, manager.page_size)))
        film = Recorder(router, decode=self.model.tokenizer)
        messages = [{"role": role, "content": content} for role, content in STORY]
        prompts = [self._encode(messages[:1]), self._encode(messages)]
        encode = self.model.tokenizer.encode
        # as a model writes it: nothing stands before an answer
        answers = [encode(messages[1]["content"], add_special_tokens=False), []]
        for turn, tokens in enumerate(prompts):
            answer = answers[turn]
            with router.admit(tokens, max_new_tokens=len(answer)) as lease:
                lease.append(*answer)
                lease.advance(len(lease.pending))
            computed = len(tokens) - lease.n_cached
            words = f"{lease.n_cached} tokens reused, {computed} computed"
            film.merge(turn, f"turn {turn + 1}: {words}")
        return film_strip(film.frames, columns=1)


def _words(error: Exception) -> str:
    """What an error says, after its name unless it is one that readers meet."""
    if isinstance(error, ValueError | RuntimeError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _counts(turn: Generation) -> str:
    prompt = count(turn.prompt_tokens, "token")
    answer = count(len(turn.tokens), "token")
    return (
        f"{turn.cached_tokens} of {prompt} reused, {turn.computed_tokens} computed; "
        f"first token after {turn.first_token_seconds:.2f} s; {answer} of answer"
    )
