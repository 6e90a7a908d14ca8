"""How much a page takes on."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What is refused, each with a sentence, and what is put away.

    upload_bytes: of one file; stored_bytes: of all files that wait to be read; uploads: files that come in at once;
    video_seconds: how long a video may last; pictures: of one conversation, which may have one video instead;
    media_bytes: of the frames and pictures of all conversations; question: characters; waiting: questions, and files,
    that may wait while one is worked on; conversations: whose frames and pictures are kept; caches: whose KV cache is;
    idle_seconds: until a conversation that nobody uses is put away; stale_seconds: until a file is removed that nobody
    reads.
    """

    upload_bytes: int = 200 * MIB
    stored_bytes: int = 1024 * MIB
    uploads: int = 32
    video_seconds: float = 1800.0
    pictures: int = 4
    media_bytes: int = 1024 * MIB
    question: int = 4000
    waiting: int = 16
    conversations: int = 32
    caches: int = 4
    idle_seconds: float = 900.0
    stale_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Raises ValueError for a limit that lets nothing through."""
        for name, value in vars(self).items():
            if value < (0 if name == "waiting" else 1):
                raise ValueError(f"{name.replace('_', ' ')} must be at least {0 if name == 'waiting' else 1}.")
        if self.stored_bytes < self.upload_bytes:
            object.__setattr__(self, "stored_bytes", self.upload_bytes)
