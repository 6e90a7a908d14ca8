"""What the first layer of the text model is handed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import paddle

from ....config import DEFAULT_TEXT_LENGTH
from ..paddleformers.pruner import columns_of, cut


@dataclass(frozen=True)
class Prompt:
    """Rows that no cache holds yet, of one conversation or of a left-padded batch of them.

    Each row brings its position, and those that come after do not depend on how many rows there are.

    embeds: [B, L, hidden]; positions: int64 [3, B, L]; following: int64 [B, 1], the position of the token after each;
    mask: int64 [B, cached + L], 0 where padding stands, None without padding; question: [B], how many tokens come after
    the last vision token of the conversation.
    """

    embeds: paddle.Tensor
    positions: paddle.Tensor
    following: paddle.Tensor
    mask: np.ndarray | None
    question: list[int]

    @property
    def rows(self) -> int:
        """New rows that are not padding, over all samples."""
        samples, length = self.embeds.shape[:2]
        return samples * length if self.mask is None else int(self.mask[:, -length:].sum())

    def shorter(self, stay: np.ndarray) -> Prompt:
        """The prompt without the vision tokens that do not stay, bool [B, L]; only what no cache begins has padding."""
        if stay.all():
            return self
        columns = columns_of(stay, self.mask)
        mask = None if (columns >= 0).all() else (columns >= 0).astype(np.int64)
        return replace(self, embeds=cut(self.embeds, columns, 0), positions=cut(self.positions, columns, 1), mask=mask)


def expand(ids: list[int], places: list[tuple[str, int]], vision_tokens: dict[str, int]) -> list[int]:
    """Tokens with each vision token, which stands for a place of some kind, repeated as often as the place is long."""
    kinds, left, out = {token: kind for kind, token in vision_tokens.items()}, list(places), []
    for token in ids:
        if token not in kinds:
            out.append(token)
            continue
        kind, count = left.pop(0)
        if kinds[token] != kind:
            raise RuntimeError(f"the prompt has a place for {kinds[token]} where a {kind} comes.")
        out += [token] * count
    return out


def question_length(ids: np.ndarray, vision_tokens) -> int:
    """Tokens after the last vision token; the operator's default where there is none."""
    places = np.flatnonzero(np.isin(ids, list(vision_tokens)))
    return len(ids) - 1 - int(places[-1]) if len(places) else DEFAULT_TEXT_LENGTH


def pad_left(rows: list[list[int]], padding: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Tokens [B, L] and their mask; no mask where all rows are as long."""
    longest = max(map(len, rows))
    ids, mask = np.full((len(rows), longest), padding, np.int64), np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], mask[i, longest - len(row) :] = row, 1
    return ids, None if mask.all() else mask
