"""Pictures of every kind show what was drawn, or are refused with a sentence."""

import io
import zlib

import numpy as np
import pytest
from infer_qwen2_5_vl_psa import main as ask
from PIL import Image
from shared_media import (
    BLACK,
    BLUE,
    GRAYS,
    GREEN,
    QUARTERS,
    RED,
    TURNED,
    WHITE,
    assert_quarters,
    picture,
    png,
    quarters,
)

from psa_paddle.utils.media import MediaError, images, load_image

GRAY16 = quarters((0, 21845, 43690, 65535), dtype=np.uint16)
CLEAR = np.dstack([quarters(), quarters((0, 255, 255, 255))])  # the red quarter is transparent
ON_WHITE = (WHITE, GREEN, BLUE, WHITE)
HALF = np.dstack([quarters((RED, GREEN, BLUE, BLACK)), quarters((255, 255, 255, 128))])
WIDE_RGB = quarters(QUARTERS, dtype=np.uint16) * 257


def saved(image, form, **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def rotated(orientation: int, form="JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(), form, exif=exif, quality=95)


def animated(form, **how) -> bytes:
    return saved(picture(), form, save_all=True, append_images=[Image.new("RGB", (64, 48))], duration=100, **how)


def keyed_palette() -> bytes:
    image = picture().quantize(4)
    return saved(image, "PNG", transparency=image.getpixel((0, 0)))


def numbers(values) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(values))


def int32(colours) -> Image.Image:
    return numbers(quarters(colours, dtype=np.int32))


def real(colours) -> Image.Image:
    return numbers(quarters(colours, dtype=np.float32))


# name: (the file's bytes, the colours of the quarters, by how much they may differ)
FILES = {
    "png": (lambda: saved(picture(), "PNG"), QUARTERS, 0),
    "png palette": (lambda: saved(picture().quantize(4), "PNG"), QUARTERS, 1),
    "png palette, transparent": (keyed_palette, ON_WHITE, 1),
    "png gray": (lambda: saved(picture("L"), "PNG"), GRAYS, 0),
    "png 1 bit": (lambda: saved(Image.fromarray(quarters((0, 255, 255, 0))).convert("1"), "PNG"),
                  (BLACK, WHITE, WHITE, BLACK), 0),
    "png transparent": (lambda: saved(Image.fromarray(CLEAR), "PNG"), ON_WHITE, 0),
    "png half transparent": (lambda: saved(Image.fromarray(HALF), "PNG"), (RED, GREEN, BLUE, (127, 127, 127)), 1),
    "png gray and alpha": (lambda: saved(Image.fromarray(CLEAR).convert("LA"), "PNG"),
                           (WHITE, (127,) * 3, (58,) * 3, WHITE), 2),
    "png gray, one level transparent": (lambda: saved(picture("L"), "PNG", transparency=0), (WHITE, *GRAYS[1:]), 0),
    "png rgb, one colour transparent": (lambda: saved(picture(), "PNG", transparency=RED), ON_WHITE, 0),
    "png 16-bit gray": (lambda: png(GRAY16, 0), GRAYS, 0),
    "png 16-bit gray, one level transparent": (lambda: png(GRAY16, 0, b"\0\0"), (WHITE, *GRAYS[1:]), 0),
    "png 16-bit gray and alpha": (lambda: png(np.dstack([GRAY16, quarters((0, 65535, 65535, 65535), dtype=np.uint16)]),
                                              4), (WHITE, *GRAYS[1:]), 0),
    "png 16-bit rgb": (lambda: png(WIDE_RGB, 2), QUARTERS, 0),
    "png 16-bit rgba": (lambda: png(np.dstack([WIDE_RGB, CLEAR[..., 3].astype(np.uint16) * 257]), 6), ON_WHITE, 0),
    "png dark 16-bit gray": (lambda: png(GRAY16 // 8, 0), tuple((v // 8,) * 3 for (v, _, _) in GRAYS), 1),
    "apng": (lambda: animated("PNG"), QUARTERS, 0),
    "jpeg": (lambda: saved(picture(), "JPEG", quality=95), QUARTERS, 4),
    "jpeg progressive": (lambda: saved(picture(), "JPEG", quality=95, progressive=True), QUARTERS, 4),
    "jpeg gray": (lambda: saved(picture("L"), "JPEG", quality=95), GRAYS, 2),
    "jpeg cmyk": (lambda: saved(picture("CMYK"), "JPEG", quality=95), QUARTERS, 6),
    "jpeg with a broken exif": (lambda: saved(picture(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
                                QUARTERS, 4),
    "jpeg with orientation 99": (lambda: rotated(99), QUARTERS, 4),
    "png with orientation": (lambda: rotated(6, "PNG"), tuple(QUARTERS[i] for i in TURNED[6]), 0),
    "webp with orientation": (lambda: rotated(8, "WEBP"), tuple(QUARTERS[i] for i in TURNED[8]), 6),
    "webp": (lambda: saved(picture(), "WEBP", quality=95), QUARTERS, 6),
    "webp lossless, transparent": (lambda: saved(Image.fromarray(CLEAR), "WEBP", lossless=True), ON_WHITE, 0),
    "webp animated": (lambda: animated("WEBP", lossless=True), QUARTERS, 0),
    "gif": (lambda: saved(picture(), "GIF"), QUARTERS, 3),
    "gif animated": (lambda: animated("GIF"), QUARTERS, 3),
    "gif transparent": (lambda: saved(Image.fromarray(CLEAR), "GIF"), ON_WHITE, 3),
    "avif": (lambda: saved(picture(), "AVIF", quality=95), QUARTERS, 6),
    "bmp": (lambda: saved(picture(), "BMP"), QUARTERS, 0),
    "bmp palette": (lambda: saved(picture("L"), "BMP"), GRAYS, 0),
    "tga": (lambda: saved(picture(), "TGA"), QUARTERS, 0),
    "ico": (lambda: saved(Image.fromarray(CLEAR), "ICO", sizes=[(64, 48)]), ON_WHITE, 0),
    "ppm": (lambda: saved(picture(), "PPM"), QUARTERS, 0),
    "pgm of 16 bits": (lambda: b"P5 64 48 65535\n" + GRAY16.astype(">u2").tobytes(), GRAYS, 0),
    "jpeg 2000": (lambda: saved(picture(), "JPEG2000"), QUARTERS, 1),
    "tiff": (lambda: saved(picture(), "TIFF"), QUARTERS, 0),
    "tiff lzw": (lambda: saved(picture(), "TIFF", compression="tiff_lzw"), QUARTERS, 0),
    "tiff cmyk": (lambda: saved(picture("CMYK"), "TIFF"), QUARTERS, 0),
    "tiff lab": (lambda: saved(picture("LAB"), "TIFF"), QUARTERS, 4),
    "tiff transparent": (lambda: saved(Image.fromarray(CLEAR), "TIFF"), ON_WHITE, 0),
    "tiff with orientation": (lambda: saved(picture(), "TIFF", tiffinfo={274: 6}),
                              tuple(QUARTERS[i] for i in TURNED[6]), 0),
    "tiff of two pages": (lambda: saved(picture(), "TIFF", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
                          QUARTERS, 0),
    "tiff 16-bit gray": (lambda: saved(numbers(GRAY16), "TIFF"), GRAYS, 0),
    "tiff 16-bit gray, big-endian": (
        lambda: saved(Image.frombytes("I;16B", (64, 48), GRAY16.astype(">u2").tobytes()), "TIFF"), GRAYS, 0
    ),
    "tiff 32-bit, 0 to 255": (lambda: saved(int32((0, 85, 170, 255)), "TIFF"), GRAYS, 0),
    "tiff 32-bit, 0 to 65535": (lambda: saved(int32((0, 21845, 43690, 65535)), "TIFF"), GRAYS, 0),
    "tiff 32-bit, over two billion": (lambda: saved(int32((0, 7 * 10**8, 14 * 10**8, 21 * 10**8)), "TIFF"), GRAYS, 0),
    "tiff 32-bit, negative": (lambda: saved(int32((-300, -100, 100, 300)), "TIFF"), GRAYS, 0),
    "tiff real, 0 to 1": (lambda: saved(real((0, 1 / 3, 2 / 3, 1)), "TIFF"), GRAYS, 0),
    "tiff real, 0 to 0.5": (lambda: saved(real((0, 1 / 6, 1 / 3, 0.5)), "TIFF"),
                            tuple((v // 2,) * 3 for v, *_ in GRAYS), 1),
    "tiff real, 0 to 255": (lambda: saved(real((0, 85, 170, 255)), "TIFF"), GRAYS, 0),
    "tiff real, -1 to 1": (lambda: saved(real((-1, -1 / 3, 1 / 3, 1)), "TIFF"), GRAYS, 1),
    "tiff real, all alike": (lambda: saved(real((-7, -7, -7, -7)), "TIFF"), (BLACK,) * 4, 0),
} | {
    f"jpeg with orientation {i}": (lambda i=i: rotated(i), tuple(QUARTERS[n] for n in TURNED[i]), 4) for i in TURNED
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_file(name, tmp_path):
    make, colours, within = FILES[name]
    path = tmp_path / "picture.jpg"  # the name does not matter
    path.write_bytes(make())
    image = load_image(path)
    assert image.mode == "RGB" and sorted(image.size) == [48, 64]
    assert_quarters(image, colours, within)
    with Image.open(path) as opened:  # the same file as a PIL image
        assert np.array_equal(np.asarray(load_image(opened)), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_pil_mode(mode):
    if mode == "I;16":
        image = numbers(quarters((0, 65535) * 2, dtype=np.uint16))
    else:
        image = Image.fromarray(quarters((BLACK, WHITE) * 2)).convert("L" if mode in "1IF" else "RGB").convert(mode)
    assert image.mode == mode
    assert_quarters(load_image(image), (BLACK, WHITE) * 2, 2)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_pil_mode_with_transparency(mode):
    image = Image.fromarray(np.dstack([quarters((BLACK,) * 4), quarters((0, 255, 0, 255))]))
    image = image.convert({"La": "LA", "PA": "RGBA"}.get(mode, "RGBA")) if mode != "LA" else image
    image = image.convert(mode) if mode != "PA" else pa_image()
    assert image.mode == mode
    assert_quarters(load_image(image), (WHITE, BLACK) * 2, 1)


def pa_image() -> Image.Image:
    image = Image.fromarray(quarters((0, 0, 0, 0)), "P")
    image.putpalette([0, 0, 0])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(quarters((0, 255, 0, 255))))
    return image


@pytest.mark.parametrize(
    "pixels,colours",
    [
        (quarters(), QUARTERS),
        (quarters()[:, ::-1], (GREEN, RED, WHITE, BLUE)),
        (quarters((0, 85, 170, 255)), GRAYS),
        (CLEAR, ON_WHITE),
        (np.asfortranarray(quarters()), QUARTERS),
    ],
    ids=["rgb", "negative stride", "gray", "rgba", "column order"],
)
def test_array(pixels, colours):
    assert_quarters(load_image(pixels), colours, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (29, 31), (2000, 10)], ids=str)
def test_odd_sizes_are_read(size, tmp_path):
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.size == size and image.getpixel((0, 0)) == RED


@pytest.mark.parametrize("size", [(10_000, 10), (1, 201), (201, 1)], ids=str)
def test_thin_images_are_refused_by_name(size, tmp_path):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    for source, name in ((tmp_path / "thin.png", "thin.png"), (Image.new("RGB", size), "the PIL image")):
        with pytest.raises(MediaError, match=rf"{name}.* is too thin \({size[0]}x{size[1]}\)"):
            load_image(source)


@pytest.mark.parametrize("name", ["half a png", "half a tiff", "real numbers with a NaN"])
def test_pil_image_that_cannot_be_read(name):
    with pytest.raises(MediaError, match="the PIL image (cannot be decoded|has values)"):
        load_image(Image.open(io.BytesIO(REFUSED[name][0]())))


def test_pil_image_of_too_many_pixels(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64)
    assert load_image(picture()).size == (64, 48)
    with pytest.raises(MediaError, match="the PIL image has more than 3,072 pixels"):
        load_image(picture().resize((65, 48)))


def test_closed_pil_image():
    image = Image.open(io.BytesIO(saved(picture(), "PNG")))
    image.close()
    with pytest.raises(MediaError, match="the PIL image cannot be decoded"):
        load_image(image)


def test_a_thin_image_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (10_000, 10)).save(tmp_path / "thin.png")
    monkeypatch.setattr("psa_paddle.cli.ask.QwenVLInference", None)
    assert ask(["--model", "demo", "--type", "image", "--input", str(tmp_path / "thin.png")]) == 2
    assert "thin.png' is too thin (10000x10)" in capsys.readouterr().err


def with_nan() -> Image.Image:
    values = quarters((0, 0.5, 0.5, 1), dtype=np.float32)
    values[3, 3] = np.nan
    return numbers(values)


def huge_png() -> bytes:
    data = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


REFUSED = {
    "real numbers with a NaN": (lambda: saved(with_nan(), "TIFF"), "not finite"),
    "40,000 x 40,000": (huge_png, "more than 178,956,970 pixels"),
    "half a jpeg": (lambda: saved(picture(), "JPEG")[:-300], "truncated"),
    "half a png": (lambda: saved(Image.effect_noise((64, 48), 50), "PNG")[:-900], "truncated"),
    "half a webp": (lambda: saved(Image.effect_noise((64, 48), 50), "WEBP")[:-500], "truncated"),
    "half a tiff": (lambda: saved(picture(), "TIFF")[:-3000], "truncated"),
    "half a gif": (lambda: saved(Image.effect_noise((64, 48), 50), "GIF")[:-900], "truncated"),
    "the head of a png": (lambda: saved(picture(), "PNG")[:20], "truncated"),
    "a png with a wrong sum": (lambda: saved(picture(), "PNG").replace(b"IHDR\0", b"IHDR\1"), "not an image|decoded"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    make, words = REFUSED[name]
    (tmp_path / "a.png").write_bytes(make())
    with pytest.raises(MediaError, match=words) as caught:
        load_image(tmp_path / "a.png")
    assert "a.png" in str(caught.value) and "\n" not in str(caught.value)
