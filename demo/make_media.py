"""Draw demo/sample.jpg and demo/sample.mp4, the picture and the clip of the examples, and a strip of its frames.

Both are scenes of the test split, which the model has never seen. They were chosen among those that it describes
correctly; demo/training_log.txt says how often it does. Needs NumPy, Pillow and PyAV.

    python demo/make_media.py
"""

from pathlib import Path

import av
import numpy as np
from PIL import Image
from world import ask, render, sample_scene

HERE = Path(__file__).parent
FPS = 8
PICTURE = {"index": 23, "width": 224, "height": 168}
SHOWN = (2, 8, 12.5, 18, 27)  # seconds of the clip that demo/sample_frames.jpg shows side by side
CLIP = {"index": 11, "width": 336, "height": 252, "frames": 60, "fps": 2.0}  # 30 s


def describe(scene) -> None:
    """Print what is true of a scene."""
    for q in {(q.language, q.answer): q for q in ask(scene, np.random.default_rng(0), 30, ("caption",))}.values():
        print(f"  {q.answer}")


def main():
    """Write both files; print their sizes and what they show."""
    scene = sample_scene("test", **PICTURE)
    Image.fromarray(render([scene])[0, 0].transpose(1, 2, 0)).save(HERE / "sample.jpg", quality=92)
    describe(scene)
    scene = sample_scene("test", **CLIP)
    frames = render([scene], times=np.arange(int(scene.seconds * FPS)) / FPS)[0].transpose(0, 2, 3, 1)
    with av.open(str(HERE / "sample.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "33", "threads": "1", "g": "40"})
        stream.width, stream.height = scene.width, scene.height
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    strip = np.concatenate([frames[int(t * FPS)] for t in SHOWN], axis=1)
    Image.fromarray(strip).resize((168 * len(SHOWN), 126)).save(HERE / "sample_frames.jpg", quality=88)
    describe(scene)
    for name in ("sample.jpg", "sample.mp4", "sample_frames.jpg"):
        print(f"{name}: {(HERE / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
