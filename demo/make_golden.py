"""Write tests/golden/demo_logits.npz: what Hugging Face transformers computes for the demo checkpoint.

One prompt about the sample picture and one about eight frames of the sample clip, dense eager attention, float32, CPU.
The file holds the finished model inputs, so a test of another framework needs neither torch nor a video decoder. The
raw pixels are in it too, for tests of the processor. Needs torch, transformers, Pillow and PyAV; run
train.py and make_media.py first.

    python demo/make_golden.py

Patches and rotary positions are worked out here rather than by transformers: its video processor needs torchvision,
and transformers 5.3 gives every frame of a clip the same temporal position.
"""

import json
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint"
GOLDEN = HERE.parent / "tests" / "golden" / "demo_logits.npz"
SIZE = (224, 168)  # whole multiples of 28 pixels, so no processor resizes them
FRAMES = [0, 24, 48, 96, 144, 168, 196, 232]
SECONDS_PER_GRID = 7.5  # a quarter of 30 s for each pair of frames
NEW_TOKENS = 8
QUESTIONS = {"image": "Describe this image.", "video": "请描述这个视频。"}


def read_pixels():
    """Return the sample picture and the chosen frames of the clip as uint8 arrays [frames, height, width, 3]."""
    picture = Image.open(HERE / "sample.jpg").convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    with av.open(str(HERE / "sample.mp4")) as container:
        frames = [frame.to_image() for index, frame in enumerate(container.decode(video=0)) if index in FRAMES]
    frames = [frame.resize(SIZE, Image.Resampling.BICUBIC) for frame in frames]
    return {"image": np.asarray(picture)[None], "video": np.stack([np.asarray(frame) for frame in frames])}


def to_patches(pixels, settings):
    """Normalise frames and cut them into the model's rows of patches; return the rows and the grid (t, h, w).

    The four patches that are later merged into one token stand next to each other. A row holds one patch of two
    frames with the colour as its slowest index; a single picture counts as two equal frames.
    """
    patch, merge, pair = settings["patch_size"], settings["merge_size"], settings["temporal_patch_size"]
    if len(pixels) % pair:
        pixels = np.concatenate([pixels, pixels[-1:]])
    values = (pixels / 255 - settings["image_mean"]) / settings["image_std"]
    count, height, width, _ = values.shape
    grid = (count // pair, height // patch, width // patch)
    values = values.reshape(
        grid[0], pair, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch, 3
    )  # t, pair, h, merge, y, w, merge, x, colour
    rows = values.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(int(np.prod(grid)), -1)
    return rows.astype(np.float32), np.array([grid], dtype=np.int64)


def rotary_positions(before, grid, after, seconds_per_grid, config):
    """Return the 3 x tokens (time, height, width) positions of text, one picture or clip, and text again.

    Text counts up in all three. A visual token adds its time step (in steps of 1 / tokens_per_second seconds), row
    and column to the first free position; the text after it goes on from the highest position used.
    """
    merge = config.vision_config.spatial_merge_size
    steps = np.indices((grid[0], grid[1] // merge, grid[2] // merge)).reshape(3, -1)
    steps[0] = (steps[0] * seconds_per_grid * config.vision_config.tokens_per_second).astype(np.int64)
    text = np.arange(before)[None].repeat(3, 0)
    tail = np.arange(after)[None].repeat(3, 0) + before + steps.max() + 1
    return np.concatenate([text, steps + before, tail], axis=1)


@torch.no_grad()
def answer(model, ids, positions, vision):
    """Return the logits after the prompt and the greedy tokens; every step runs the whole sequence, without a cache."""
    ids, positions = torch.from_numpy(ids), torch.from_numpy(positions)[:, None]
    first, tokens = None, []
    for _ in range(NEW_TOKENS):
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1, **vision).logits[0, -1]
        first = logits if first is None else first
        tokens.append(int(logits.argmax()))
        ids = torch.cat([ids, ids.new_tensor([[tokens[-1]]])], dim=1)
        positions = torch.cat([positions, positions[:, :, -1:].max() + positions.new_ones(3, 1, 1)], dim=2)
    return first.numpy(), np.array(tokens)


def main():
    """Compute both cases and write the file."""
    settings = json.loads((CHECKPOINT / "preprocessor_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    golden = {}
    for kind, pixels in read_pixels().items():
        rows, grid = to_patches(pixels, settings)
        content = [{"type": kind}, {"type": "text", "text": QUESTIONS[kind]}]
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pad = f"<|{kind}_pad|>"
        visual = int(grid.prod()) // settings["merge_size"] ** 2
        ids = np.array([tokenizer(prompt.replace(pad, pad * visual))["input_ids"]])
        before = int((ids[0] == tokenizer.convert_tokens_to_ids(pad)).argmax())
        seconds = SECONDS_PER_GRID if kind == "video" else 0.0
        positions = rotary_positions(before, grid[0], ids.shape[1] - before - visual, seconds, model.config)
        names = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
        logits, tokens = answer(
            model, ids, positions, dict(zip(names, map(torch.from_numpy, (rows, grid)), strict=True))
        )
        entry = dict(zip(names, (rows, grid), strict=True)) | {
            "pixels": pixels, "prompt": np.array(prompt), "input_ids": ids, "position_ids": positions,
            "logits": logits, "tokens": tokens,
        }  # fmt: skip
        if kind == "video":
            entry["second_per_grid_ts"] = np.array([seconds], dtype=np.float32)
        golden |= {f"{kind}.{name}": value for name, value in entry.items()}
        print(f"{kind}: {ids.shape[1]} tokens, answer {tokens.tolist()} {tokenizer.decode(tokens)!r}")
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN, **golden)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
