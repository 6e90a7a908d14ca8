"""What each visitor has said and shown: bounded in number, and put away when nobody uses it."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field

from ..integrations.language.answering.session import Session
from .limits import Limits
from .uploads import Medium
from .worker import Full, Job


class NoRoom(Full):
    """As many conversations as are kept are worked on."""


class TooMany(ValueError):
    """More media than a conversation takes: one video, or a few pictures."""


@dataclass(eq=False)
class Conversation:
    """One visitor's conversation.

    key: tells it from the one before it on the same page; session: its KV cache, made with the first question; seen,
    waiting: media that the model has seen, and that go with the next question; history: what was said, as a chat shows
    it; job: what is worked on; used: when.
    """

    key: str = field(default_factory=lambda: secrets.token_hex(8))
    session: Session | None = None
    seen: list[Medium] = field(default_factory=list)
    waiting: list[Medium] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    job: Job | None = None
    used: float = field(default_factory=time.monotonic)

    @property
    def shown(self) -> list[Medium]:
        """All media, in order."""
        return [*self.seen, *self.waiting]

    @property
    def busy(self) -> bool:
        """Whether something is worked on."""
        return self.job is not None and not self.job.future.done()

    def show(self, medium: Medium, pictures: int) -> None:
        """Show something with the next question.

        Raises:
            TooMany: a second video, a video beside pictures, or more pictures than ``pictures``.
        """
        kinds = [one.kind for one in self.shown] + [medium.kind]
        if (kinds.count("video") and len(kinds) > 1) or len(kinds) > pictures:
            raise TooMany
        self.waiting.append(medium)

    def answered(self) -> None:
        """The model has seen what waited."""
        self.seen, self.waiting = self.shown, []

    def leave(self) -> None:
        """Stop what is worked on."""
        if self.job is not None:
            self.job.leave()

    def again(self) -> Conversation:
        """A new one that shows the same."""
        return Conversation(waiting=self.shown)


class Conversations:
    """The conversations of all visitors, by what tells visitors apart."""

    def __init__(self, limits: Limits):
        self._limits, self._all, self._lock = limits, dict[str, Conversation](), threading.Lock()

    def __len__(self) -> int:
        return len(self._all)

    def find(self, visitor: str) -> Conversation | None:
        """A visitor's conversation, if it is kept; it counts as used."""
        with self._lock:
            found = self._all.get(visitor)
            if found is not None:
                found.used = time.monotonic()
            return found

    def of(self, visitor: str) -> Conversation:
        """A visitor's conversation, made when there is none.

        Raises:
            NoRoom: as many are kept as may, and all are worked on.
        """
        return self.find(visitor) or self.put(visitor, Conversation())

    def put(self, visitor: str, conversation: Conversation) -> Conversation:
        """Take this one from now on. Where there is no room, the one that was idle longest goes.

        Raises:
            NoRoom: as many are kept as may, and all are worked on.
        """
        with self._lock:
            before = self._all.pop(visitor, None)
            if before is not None:
                before.leave()
            if len(self._all) >= self._limits.conversations:
                self._put_away(self._all)
            conversation.used = time.monotonic()
            self._all[visitor] = conversation
        return conversation

    def make_room(self, conversation: Conversation) -> None:
        """Before a conversation gets its KV cache: where there are enough, the one that was idle longest goes.

        Raises:
            NoRoom: all that have one are worked on.
        """
        with self._lock:
            have = {name: one for name, one in self._all.items() if one.session is not None}
            if conversation.session is None and len(have) >= self._limits.caches:
                self._put_away(have)

    def make_place(self, conversation: Conversation, medium: Medium) -> None:
        """Before a conversation shows something: where there is too much, what was idle longest goes.

        Raises:
            NoRoom: all that others show is worked on.
        """
        with self._lock:
            while self._bytes() + medium.bytes > self._limits.media_bytes:
                self._put_away({name: one for name, one in self._all.items() if one.shown and one is not conversation})

    def _bytes(self) -> int:
        """Of all that is shown; what several show counts once."""
        every = {id(medium): medium for one in self._all.values() for medium in one.shown}
        return sum(medium.bytes for medium in every.values())

    def _put_away(self, among: dict[str, Conversation]) -> None:
        idle = [name for name, one in among.items() if not one.busy]
        if not idle:
            raise NoRoom
        del self._all[min(idle, key=lambda name: among[name].used)]

    def drop(self, visitor: str) -> None:
        """The visitor has left."""
        with self._lock:
            gone = self._all.pop(visitor, None)
        if gone is not None:
            gone.leave()

    def sweep(self) -> None:
        """Put away those that nobody has used for long."""
        before = time.monotonic() - self._limits.idle_seconds
        with self._lock:
            for visitor in [name for name, one in self._all.items() if not one.busy and one.used <= before]:
                del self._all[visitor]

    def close(self) -> None:
        """Stop and forget all."""
        for visitor in list(self._all):
            self.drop(visitor)
