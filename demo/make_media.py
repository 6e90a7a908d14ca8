"""Draw demo/sample.jpg and demo/sample.mp4, the picture and the clip of the examples.

Everything is drawn with NumPy and Pillow from a fixed seed and encoded with PyAV, so the files carry no one else's
rights. The clip is 30 s long: in the first scene a red circle goes from left to right and a green square from top to
bottom; at 18 s the scene changes and a yellow triangle goes from right to left; for the one second from 24 s a white
card with the number 42 (the needle) covers the scene.

    python demo/make_media.py
"""

from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
FPS = 8
SECONDS = 30
SIZE = (336, 252)  # whole multiples of the model's 28-pixel patches
CUT = 18 * FPS
NEEDLE = range(24 * FPS, 25 * FPS)


def background(size, top, bottom, seed):
    """Return a vertical gradient from one colour to another with noise that stays the same from frame to frame."""
    width, height = size
    ramp = np.linspace(0, 1, height)[:, None, None]
    pixels = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    noise = np.random.default_rng(seed).normal(0, 5, (height, width, 1))
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def write(draw, centre, text, size, colour):
    """Write text with its middle at centre, in the font that comes with Pillow."""
    draw.text(centre, text, fill=colour, font=ImageFont.load_default(size=size), anchor="mm")


def triangle(draw, x, y, radius, colour):
    """Draw a triangle that points up, with its middle at (x, y)."""
    draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)


def draw_picture():
    """Return the sample picture: a circle, a square, a triangle and the number 7 on a gradient."""
    picture = background((448, 336), (40, 60, 120), (200, 210, 230), seed=1)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 40, 160, 160), fill=(220, 40, 40))
    draw.rectangle((280, 50, 390, 160), fill=(40, 170, 70))
    triangle(draw, 110, 250, 55, (240, 200, 40))
    write(draw, (320, 250), "7", 110, (250, 250, 250))
    return picture


def draw_frame(index, scenes):
    """Return frame number index of the clip; scenes are the two backgrounds."""
    width, height = SIZE
    if index in NEEDLE:
        card = Image.new("RGB", SIZE, (245, 245, 245))
        write(ImageDraw.Draw(card), (width // 2, height // 2), "42", 150, (20, 20, 20))
        return card
    frame = scenes[index >= CUT].copy()
    draw = ImageDraw.Draw(frame)
    if index < CUT:
        part = index / (CUT - 1)
        x, y = 40 + part * (width - 80), 40 + part * (height - 80)
        draw.ellipse((x - 30, 50, x + 30, 110), fill=(220, 40, 40))
        draw.rectangle((230, y - 25, 280, y + 25), fill=(40, 170, 70))
    else:
        part = (index - CUT) / (FPS * SECONDS - CUT - 1)
        triangle(draw, width - 45 - part * (width - 90), 170, 35, (245, 205, 30))
        draw.ellipse((40, 30, 100, 90), fill=(130, 60, 180))
    return frame


def main():
    """Write both files and print their sizes."""
    draw_picture().save(HERE / "sample.jpg", quality=90)
    scenes = (
        background(SIZE, (20, 30, 60), (90, 110, 150), seed=2),
        background(SIZE, (190, 220, 200), (90, 140, 110), seed=3),
    )
    with av.open(str(HERE / "sample.mp4"), "w", options={"movflags": "faststart"}) as container:
        # One thread and a fixed quality make the file the same on every run of the same encoder.
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "24", "threads": "1", "g": "40"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(FPS * SECONDS):
            container.mux(stream.encode(av.VideoFrame.from_image(draw_frame(index, scenes))))
        container.mux(stream.encode())
    for name in ("sample.jpg", "sample.mp4"):
        print(f"{name}: {(HERE / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
