"""bench_language.py's measurements (torch): a language model read with one setting or another, beside dense."""

from __future__ import annotations

import time

import language_model
import numpy as np
import torch
from common import seen_pairs
from language_settings import DENSE, TRIANGLE, LayerChoice, Setting, everywhere, level_one, same_density
from language_tasks import Prompt, long_copies, make_prompt, mean_and_error
from quality_settings import LAST, SINK, WINDOW

from psa_paddle import kernels
from psa_paddle.geometry import Geometry
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.plan import Plan
from psa_paddle.triangle_pattern import Pattern

FAR = 4096  # first position that counts, and how far back a long-range copy reaches; a quarter of shorter texts
LOGITS = 4096  # tokens whose logits are in memory at once
PAIRS = 4  # keys and values planted in a prompt


def attention(choice: LayerChoice, text_length: int, densities: list):
    """A layer's attention function, which appends the share of dense work that it did to ``densities``."""
    if choice == DENSE:
        return language_model.dense

    def triangle(q, k, v):
        length = q.shape[2]
        densities.append(seen_pairs(length, SINK, WINDOW, LAST) / (length * (length + 1) / 2))
        return triangle_fwd(q, k, v, Pattern(SINK, WINDOW, LAST), q.shape[3] ** -0.5)

    def sparse(q, k, v):
        config = choice.replace(text_length=text_length)
        out, work = kernels.psa_fwd(q, k, v, Plan.of(config, q.shape[3] ** -0.5))
        pairs = Geometry(q.shape[2], k.shape[2], config.query_block, config.key_block, True).n_pairs()
        densities.append(work.sum() / (pairs * work.shape[0] * work.shape[1]))
        return out

    return triangle if choice == TRIANGLE else sparse


class Bench:
    """One model on texts of one length: dense attention's states and answers are kept for every setting.

    texts: int tensors of more than ``length`` tokens; prompts: how many a text; seed: of what is planted.
    """

    def __init__(self, model, tokenizer, texts, length: int, prompts: int, seed: int = 0):
        self.model, self.device = model, model.embed.weight.device
        self.length, self.first = length, min(FAR, length // 4)
        self.logits_of = model.embed.weight.float().T
        self.ids = [text[: length + 1].long().to(self.device) for text in texts]
        self.dense = [self._states(ids[:-1], None)[self.first :] for ids in self.ids]
        far = [long_copies(text[: length + 1], self.first)[self.first :] for text in texts]
        self.copies = [torch.from_numpy(x).to(self.device) for x in far]
        self.prompts: list[Prompt] = []
        for n, text in enumerate(texts):
            for turn in range(prompts):
                rng = np.random.default_rng([seed, length, n, turn])
                encode = lambda line: tokenizer.encode(line).ids  # noqa: E731
                self.prompts.append(make_prompt(text.numpy(), length, PAIRS, encode, rng))
        self.dense_right = [self._right(prompt, None) for prompt in self.prompts]

    def _states(self, ids, setting: Setting | None, text_length: int = 0, densities: list | None = None):
        """ids [L] -> the last hidden states [L, width]."""
        choices = [setting.of_layer(n) if setting else DENSE for n in range(len(self.model.layers))]
        own = densities if densities is not None else []
        attends = [attention(choice, text_length, own) for choice in choices]
        own += [1.0] * choices.count(DENSE)
        return self.model(ids[None], attends)[0]

    def _right(self, prompt: Prompt, setting: Setting | None) -> np.ndarray:
        """Whether each of the answer's tokens is the likeliest after those before it."""
        ids = torch.from_numpy(prompt.ids).to(self.device)
        states = self._states(ids, setting, prompt.question)[prompt.answers - 1]
        return (states.float() @ self.logits_of).argmax(-1).cpu().numpy() == prompt.ids[prompt.answers]

    def _compare(self, dense, sparse, targets):
        """Losses [L] of both in nats, and KL(dense || sparse) [L] of the next-token distributions."""
        parts = []
        for d, s, y in zip(*(x.split(LOGITS) for x in (dense, sparse, targets)), strict=True):
            p, q = ((x.float() @ self.logits_of).log_softmax(-1) for x in (d, s))
            losses = [-x.gather(-1, y[:, None])[:, 0] for x in (p, q)]
            parts.append(torch.stack([*losses, (p.exp() * (p - q)).sum(-1)]))
        return torch.cat(parts, 1)

    def density(self, setting: Setting) -> float:
        """Share of dense work on the first text."""
        found: list = []
        self._states(self.ids[0][:-1], setting, 0, found)
        return float(sum(found)) / len(found)

    def at_same_density(self, setting: Setting) -> Setting:
        """``setting.level1_of`` with level 1 only, as much as the whole of it costs on the first text."""
        base = setting.level1_of
        share = same_density(
            lambda end: self.density(everywhere("", "", level_one(base, end))),
            self.density(everywhere("", "", base)),
        )
        return everywhere(setting.name, f"{setting.about}: share {share:.4f}", level_one(base, share))

    def divergence(self, setting: Setting) -> float:
        """Mean KL(dense || sparse) over the texts, nats a token."""
        found = []
        for ids, dense in zip(self.ids, self.dense, strict=True):
            sparse = self._states(ids[:-1], setting)[self.first :]
            found.append(self._compare(dense, sparse, ids[self.first + 1 :])[2].mean())
        return float(sum(found)) / len(found)

    def row(self, setting: Setting) -> dict:
        """All measurements of a setting."""
        if setting.level1_of is not None:
            setting = self.at_same_density(setting)
        begin, densities, files, copied, right = time.perf_counter(), [], [], [], []
        for ids, dense, copies in zip(self.ids, self.dense, self.copies, strict=True):
            sparse = self._states(ids[:-1], setting, 0, densities)[self.first :]
            one, other, divergence = self._compare(dense, sparse, ids[self.first + 1 :])
            more = other - one
            files.append(torch.stack([one.mean(), more.mean(), (more > 1).float().mean(), divergence.mean()]).tolist())
            copied.append(more[copies])
        right = [self._right(prompt, setting) for prompt in self.prompts]
        (dense, _), (loss, loss_error), (worse, _), (kl, kl_error) = map(mean_and_error, zip(*files, strict=True))
        copied = torch.cat(copied)
        return {
            "setting": setting.name, "about": setting.about, "length": self.length, "files": len(self.ids),
            "density": float(sum(densities)) / len(densities), "dense_loss": dense, "loss": loss,
            "loss_error": loss_error, "worse": worse, "kl": kl, "kl_error": kl_error,
            "copies": float(copied.mean()) if len(copied) else None, "copied_tokens": len(copied),
            "retrieval": float(np.concatenate(right).mean()) if right else None,
            "dense_retrieval": float(np.concatenate(self.dense_right).mean()) if right else None,
            "answer_tokens": sum(map(len, right)), "seconds": time.perf_counter() - begin,
        }  # fmt: skip
