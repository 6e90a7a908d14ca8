"""What the tests of the video plug share."""

from psa_paddle import PSAConfig, load_preset

SETTINGS = {"height": 96, "width": 144, "num_frames": 13, "num_inference_steps": 4}  # grid 4 x 6 x 9
GRID = (4, 6, 9)
PLAIN = load_preset("CogVideo_5b", "baseline")
SPARSE = PSAConfig(block_m=64, block_n=32, rearrange_method="Gilbert", dense_below=0)
ALL_ONE = SPARSE.replace(mask_ratios={1: (0.0, 1.0)})
ONLY_FORCED = PSAConfig(block_m=64, block_n=32, dense_below=0, mask_ratios={0: (0.0, 1.0)})


def video(pipe, **changes):
    return pipe("a red ball", **{**SETTINGS, **changes})


def blocks_of(pipe):
    return getattr(pipe.transformer, "transformer_blocks", None) or pipe.transformer.blocks


def snapshot(pipe):
    """Everything that plugging in might leave behind."""
    model = pipe.transformer
    layers = [(sorted(vars(block.attn1)), block.attn1.processor) for block in blocks_of(pipe)]
    weights = {name: (value.data_ptr(), value.numpy().tobytes()) for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_sublayers()]
    return sorted(vars(model)), len(model._forward_pre_hooks), layers, names, weights
