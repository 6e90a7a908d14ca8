"""One answer of the bundled demo model: loading, processor, vision tower, attention and generation in one."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .findings import ANSWER, FAILED, NOT_POSSIBLE, OK, Check, words_of

PROMPT = "请描述这个视频"
KNOWN = "首先一个粉色的菱形向右移动,然后一个绿色的圆形向右移动,然后一个红色的三角形向下移动;一张卡片上写着38。"
FPS = 1.0


def demo_answer(dtype: str) -> Iterator[Check]:
    """Ask about the sample video with sparse attention in every layer, and compare the answer with the known one."""
    name = f"{ANSWER} ({dtype})"
    try:
        from ..config import AttentionConfig
        from ..integrations.language.inference import QwenVLInference
        from ..integrations.language.loading import DEMO, check_library

        check_library("auto")
    except (ImportError, ValueError) as error:
        yield Check(name, NOT_POSSIBLE, words_of(error), "Install what is missing, then run this again.")
        return
    model = QwenVLInference("demo", dtype, use_psa=True, psa_config=AttentionConfig(dense_below=0))
    answer = model.inference_video(os.fspath(DEMO.parent / "sample.mp4"), PROMPT, 64, FPS)
    stats = model.stats()
    figures = (
        f"{stats['sequence_length']} tokens, {stats['average_sparsity']:.0%} of the attention skipped, "
        f"{stats['ttft_s']:.2f} s to the first token, backend {'/'.join(stats['backends'])}, {stats['library']}"
    )
    if answer == KNOWN:
        yield Check(name, OK, f"the known answer; {figures}")
    else:
        advice = "Put this report into an issue; until it is solved, look at answers of dense attention (no --use-psa)."
        yield Check(name, FAILED, f"answers {answer!r} in place of {KNOWN!r}; {figures}", advice)
