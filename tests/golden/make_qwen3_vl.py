"""Write tests/golden/qwen3_vl_logits.npz: what Hugging Face transformers computes for the random Qwen3-VL checkpoint.

Its own processor makes the inputs, of pixels that ``shared_checkpoints`` draws; dense eager attention, float32, CPU.
Needs torch, torchvision and transformers (5.23 wrote the file).

    PYTHONPATH=tests python tests/golden/make_qwen3_vl.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from shared_checkpoints import CASES, STEP, pictures_of, video_of, write_qwen3_vl
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

GOLDEN = Path(__file__).parent / "qwen3_vl_logits.npz"
NEW_TOKENS = 6


def inputs_of(processor, kind: str):
    """The model's inputs for one of ``CASES``."""
    content = [*({"type": part} for part in CASES[kind]), {"type": "text", "text": "Describe this."}]
    turns = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # Every pair of frames has its own marks; 5.23 leaves those around the whole clip too, which 4.57 takes away.
    text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    settings = {"text": [text], "return_tensors": "pt"}
    if pictures := pictures_of(kind):
        settings["images"] = pictures
    if clip := video_of(kind):
        frames, fps = clip
        numbers = list(range(len(frames)))
        metadata = {"fps": fps, "frames_indices": numbers, "total_num_frames": len(frames)}
        settings |= {"videos": [frames], "video_metadata": [metadata], "do_sample_frames": False}
        settings["videos_kwargs"] = {"do_resize": False}
    return processor(**settings)


@torch.no_grad()
def main():
    """Compute every case and write the file."""
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        write_qwen3_vl(Path(folder))
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        processor = AutoProcessor.from_pretrained(folder)
        for kind in CASES:
            inputs = inputs_of(processor, kind)
            length = inputs["input_ids"].shape[1]
            logits = model(**inputs).logits[0]
            ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)
            golden[f"{kind}.input_ids"] = inputs["input_ids"].numpy()
            golden[f"{kind}.logits"] = logits.flip(0)[::STEP].numpy()
            golden[f"{kind}.tokens"] = ids[0, length:].numpy()
            print(f"{kind}: {length} tokens, answer {golden[f'{kind}.tokens'].tolist()}")
    np.savez_compressed(GOLDEN, **golden)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
