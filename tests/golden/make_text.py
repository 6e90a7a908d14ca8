"""Write tests/golden/text_logits.npz: what Hugging Face transformers computes for the random text models.

Dense eager attention, float32, CPU. Needs torch and transformers (5.23 wrote the file).

    PYTHONPATH=tests python tests/golden/make_text.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from shared_checkpoints import TEXTS, text_prompt, write_text_model
from transformers import AutoModelForCausalLM

GOLDEN = Path(__file__).parent / "text_logits.npz"
NEW_TOKENS = 6


@torch.no_grad()
def main():
    """Compute both models and write the file."""
    golden, ids = {}, torch.from_numpy(text_prompt())
    for kind in TEXTS:
        with tempfile.TemporaryDirectory() as folder:
            write_text_model(Path(folder), kind)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()
            golden[f"{kind}.logits"] = model(input_ids=ids).logits[0, -4:].numpy()
            found = model.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)
            golden[f"{kind}.tokens"] = found[0, ids.shape[1] :].numpy()
            print(f"{kind}: answer {golden[f'{kind}.tokens'].tolist()}")
    np.savez_compressed(GOLDEN, **golden)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
