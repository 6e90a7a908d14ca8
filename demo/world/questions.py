"""Questions about a scene with their true answers, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .vocabulary import (
    CELLS,
    COLOURS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    STILL,
    article,
    thing_name,
)

IMAGE_TYPES = ("colour", "shape", "size", "position", "count", "relation", "number", "word", "caption")
VIDEO_TYPES = ("colour", "shape", "motion", "order", "time", "count", "needle", "caption")
MOST_IN_CAPTION = 3  # things that an image's caption may name


@dataclass(frozen=True)
class Question:
    """``prompt`` and the one true ``answer``; type is one of IMAGE_TYPES or VIDEO_TYPES."""

    type: str
    language: str
    prompt: str
    answer: str


CAPTION_PROMPTS = {
    "image": (
        ("Describe this image.", "Please describe the picture.", "What is in this image?", "What do you see?"),
        ("请描述这张图片", "请描述这张图片。", "描述一下这张图片。", "图片里有什么?"),
    ),
    "video": (
        ("Describe this video.", "Please describe the video.", "What happens in this video?", "What do you see?"),
        ("请描述这个视频", "请描述这个视频。", "描述一下这个视频。", "视频里发生了什么?"),
    ),
}


def ask(scene, rng, count: int, types=None, weights=None) -> list[Question]:
    """``count`` questions about a scene, of types drawn from those that the scene allows.

    Args:
        scene: a ``Scene``.
        rng: ``numpy.random.Generator`` that picks types, wording and language.
        count: how many; they may repeat.
        types: ask only these; a scene that allows none of them gives an empty list.
        weights: how much more often a type is asked than those not named, {type: weight}; None asks all evenly.
    """
    writers = _IMAGE if scene.kind == "image" else _VIDEO
    able = {}
    for name, writer in writers.items():
        if types is None or name in types:
            found = writer(scene)
            if found:
                able[name] = found
    names, questions = list(able), []
    share = np.array([(weights or {}).get(name, 1.0) for name in names])
    for _ in range(count if names else 0):
        name = names[rng.choice(len(names), p=share / share.sum())]
        variants = able[name]
        english, chinese = variants[rng.integers(len(variants))]
        is_chinese = bool(rng.integers(2))
        prompts, answer = chinese if is_chinese else english
        prompt = prompts[rng.integers(len(prompts))]
        questions.append(Question(name, "zh" if is_chinese else "en", prompt, answer))
    return questions


# A writer returns variants; a variant is ((English prompts, answer), (Chinese prompts, answer)).


def _only(scene, key: str) -> list:
    """Things whose shape or colour no other thing of the scene shares."""
    values = [getattr(t, key) for t in scene.things]
    return [t for t, value in zip(scene.things, values, strict=True) if values.count(value) == 1]


def _colour(scene):
    variants = []
    for t in _only(scene, "shape"):
        en, zh = (SHAPES[t.shape][i] for i in range(2))
        variants.append((
            ((f"What colour is the {en}?", f"Which colour does the {en} have?"), COLOURS[t.colour][0]),
            ((f"{zh}是什么颜色?", f"{zh}的颜色是什么?"), COLOURS[t.colour][1]),
        ))  # fmt: skip
    return variants


def _shape(scene):
    variants = []
    for t in _only(scene, "colour"):
        en, zh = COLOURS[t.colour][:2]
        variants.append((
            ((f"What shape is the {en} object?", f"Which shape is {en}?"), SHAPES[t.shape][0]),
            ((f"{zh}的物体是什么形状?", f"什么形状是{zh}的?"), SHAPES[t.shape][1]),
        ))  # fmt: skip
    return variants


def _size(scene):
    return [
        (
            ((f"Is the {thing_name(t, False)} large or small?",), SIZES[t.size][0]),
            ((f"{thing_name(t, True)}是大的还是小的?",), SIZES[t.size][1] + "的"),
        )
        for t in scene.things
    ]


def _position(scene):
    return [
        (
            ((f"Where is the {thing_name(t, False)}?",), CELLS[t.cell][0]),
            ((f"{thing_name(t, True)}在哪里?",), CELLS[t.cell][1]),
        )
        for t in scene.things
    ]


def _count(scene):
    n = len(scene.things)
    if scene.kind == "video":
        return [
            (
                (("How many objects appear in the video?", "How many objects appear?"), str(n)),
                (("视频里出现了几个物体?", "出现了几个物体?"), f"{n}个"),
            )
        ]
    variants = [
        (
            (("How many objects are there?", "Count the objects."), str(n)),
            (("有几个物体?", "图片里有几个物体?"), f"{n}个"),
        )
    ]
    for shape in {t.shape for t in scene.things}:
        number = sum(t.shape == shape for t in scene.things)
        en, zh = SHAPES[shape]
        plural = en + ("es" if en.endswith("s") else "s")
        variants.append(
            (
                ((f"How many {plural} are there?",), str(number)),
                ((f"有几个{zh}?",), f"{number}个"),
            )
        )
    return variants


def _relation(scene):
    variants = []
    for a in scene.things:
        for b in scene.things:
            for axis, (en, zh, *sides) in enumerate(RELATIONS):
                places = [(t.cell % 3, t.cell // 3)[axis] for t in (a, b)]
                if places[0] == places[1]:
                    continue  # in one column or one row the answer is not plain to see
                side = sides[places[0] > places[1]]
                variants.append((
                    ((f"Is the {thing_name(a, False)} {en} the {thing_name(b, False)}?",), side[0]),
                    ((f"{thing_name(a, True)}在{thing_name(b, True)}的{zh}?",), side[1]),
                ))  # fmt: skip
    return variants


def _on_card(scene, number: bool):
    if scene.card is None or scene.card.text.isdigit() != number:
        return []
    what = ("number", "数字") if number else ("word", "单词")
    return [
        (
            ((f"What {what[0]} is on the card?", f"Which {what[0]} do you see?"), scene.card.text),
            ((f"卡片上的{what[1]}是什么?", f"画面中的{what[1]}是什么?"), scene.card.text),
        )
    ]


def _needle(scene):
    return _on_card(scene, True) or _on_card(scene, False)


def _motion(scene):
    return [
        (
            (
                (f"Which way does the {thing_name(t, False)} move?", f"How does the {thing_name(t, False)} move?"),
                MOTIONS[t.motion][2],
            ),
            (
                (f"{thing_name(t, True)}向哪个方向移动?", f"{thing_name(t, True)}怎么移动?"),
                MOTIONS[t.motion][3],
            ),
        )
        for t in scene.things
    ]


def _order(scene):
    things = scene.things
    if len(things) < 2:
        return []

    def name(t):
        return article(thing_name(t, False)), thing_name(t, True)

    first, last = name(things[0]), name(things[-1])
    variants = [
        ((("What appears first?", "What comes first?"), first[0]), (("最先出现的是什么?", "首先出现什么?"), first[1])),
        ((("What appears last?", "What comes last?"), last[0]), (("最后出现的是什么?", "最后出现什么?"), last[1])),
    ]
    for before, after in zip(things, things[1:], strict=False):
        b, a = name(before), name(after)
        variants += [
            (((f"What comes after the {b[0].split(' ', 1)[1]}?",), a[0]), ((f"{b[1]}之后出现什么?",), a[1])),
            (((f"What comes before the {a[0].split(' ', 1)[1]}?",), b[0]), ((f"{a[1]}之前出现什么?",), b[1])),
        ]
    return variants


def _time(scene):
    """Whole seconds well inside a thing's time, and not while the card is up."""
    variants = []
    for t in scene.things:
        margin = max(0.5, 0.1 * (t.end - t.start))
        for second in range(int(t.start) + 1, int(t.end) + 1):
            if not t.start + margin <= second <= min(t.end, scene.seconds) - margin:
                continue
            if scene.card is not None and scene.card.start - 1 < second < scene.card.end + 1:
                continue
            variants.append((
                ((f"What appears at second {second}?", f"What is there at second {second}?"),
                 article(thing_name(t, False))),
                ((f"第{second}秒出现什么?", f"第{second}秒有什么?"), thing_name(t, True)),
            ))  # fmt: skip
    return variants


def _image_caption(scene):
    if len(scene.things) > MOST_IN_CAPTION:
        return []
    things = sorted(scene.things, key=lambda t: t.cell)
    parts = [f"{article(thing_name(t, False, True))} at the {CELLS[t.cell][0]}" for t in things]
    parts_zh = [f"{CELLS[t.cell][1]}有一个{thing_name(t, True, True)}" for t in things]
    if scene.card is not None:
        parts.append(f"a card with {scene.card.text}")
        parts_zh.append(f"还有一张写着{scene.card.text}的卡片")
    english = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return [_caption_variant("image", english, ",".join(parts_zh))]


def _video_caption(scene):
    parts, parts_zh = [], []
    for i, t in enumerate(scene.things):
        parts.append(("First " if i == 0 else "then ") + f"{article(thing_name(t, False))} {MOTIONS[t.motion][0]}")
        parts_zh.append(("首先" if i == 0 else "然后") + f"一个{thing_name(t, True)}{MOTIONS[t.motion][1]}")
    english, chinese = ", ".join(parts), ",".join(parts_zh)
    if scene.card is not None:
        english += f"; a card shows {scene.card.text}"
        chinese += f";一张卡片上写着{scene.card.text}"
    return [_caption_variant("video", english, chinese)]


def _caption_variant(kind: str, english: str, chinese: str):
    prompts = CAPTION_PROMPTS[kind]
    return (prompts[0], english[0].upper() + english[1:] + "."), (prompts[1], chinese + "。")


_IMAGE = {
    "colour": _colour,
    "shape": _shape,
    "size": _size,
    "position": _position,
    "count": _count,
    "relation": _relation,
    "number": lambda scene: _on_card(scene, True),
    "word": lambda scene: _on_card(scene, False),
    "caption": _image_caption,
}
_VIDEO = {
    "colour": _colour,
    "shape": _shape,
    "motion": _motion,
    "order": _order,
    "time": _time,
    "count": _count,
    "needle": _needle,
    "caption": _video_caption,
}
assert tuple(_IMAGE) == IMAGE_TYPES and tuple(_VIDEO) == VIDEO_TYPES and MOTIONS[STILL][4] == (0, 0)
