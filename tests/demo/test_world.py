"""The visual world: seeded, split without overlap, drawn as its answers say."""

from dataclasses import replace

import numpy as np
import pytest
from world import IMAGE_TYPES, SPLITS, VIDEO_TYPES, ask, render, sample_scene
from world.render import lamp
from world.vocabulary import CELLS, COLOURS, MOTIONS, SHAPES, SIZES
from world_batches import BUCKETS, TEST_PAIRS, clip_shape, make_batch, tokenizer

SIZE = (224, 168)


def images(split, count, size=SIZE):
    return [sample_scene(split, i, *size) for i in range(count)]


def videos(split, count, frames=20, size=SIZE):
    return [sample_scene(split, i, *size, frames, 2.0) for i in range(count)]


def every_question(scene, *types):
    return {(q.language, q.prompt): q for q in ask(scene, np.random.default_rng(0), 300, types or None)}.values()


def answers_of(scene, *types):
    return {q.prompt: q.answer for q in every_question(scene, *types)}


def test_scenes_follow_from_their_number():
    again = images("train", 5) + videos("train", 5)
    assert images("train", 5) + videos("train", 5) == again and len(set(again)) == 10
    assert np.array_equal(render(again[:5]), render(again[:5]))


@pytest.mark.parametrize("make", [images, videos], ids=["image", "video"])
def test_no_layout_is_in_two_splits(make):
    layouts = [{scene.layout() for scene in make(split, 150)} for split in SPLITS]
    assert all(layouts)
    assert not layouts[0] & layouts[1] and not layouts[0] & layouts[2] and not layouts[1] & layouts[2]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_training_and_test_share_no_number_of_frames(bucket):
    rng = np.random.default_rng(0)
    pairs = [{clip_shape(bucket, rng, test)[2] // 2 for _ in range(60)} for test in (False, True)]
    if bucket == "image":
        assert pairs == [{0}, {0}]
    else:
        assert not pairs[0] & pairs[1] and all(n % TEST_PAIRS == 0 for n in pairs[1])


def colour_at(frame, x, y):
    """The named colour nearest to the middle of what is drawn at (x, y), the lamp off: frame uint8 [3, H, W]."""
    unlit = frame - lamp(frame.shape[2])[:, None]
    around = unlit[:, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(3, -1).mean(1)
    return int(np.argmin([np.abs(around - rgb).sum() for *_, rgb in COLOURS]))


def test_things_have_their_colour_and_size_where_they_are_said_to_be():
    scenes = images("test", 40)
    for scene, frame in zip(scenes, render(scenes)[:, 0], strict=True):
        for t in scene.things:
            if SHAPES[t.shape][0] == "ring":
                assert colour_at(frame, t.x + 0.8 * t.radius, t.y) == t.colour
            else:
                assert colour_at(frame, t.x, t.y) == t.colour
            assert (int(t.x // (SIZE[0] / 3)), int(t.y // (SIZE[1] / 3))) == (t.cell % 3, t.cell // 3)
        answers = answers_of(scene, "position", "size") | answers_of(scene, "count")
        first = scene.things[0]
        name = f"{COLOURS[first.colour][0]} {SHAPES[first.shape][0]}"
        assert answers[f"Where is the {name}?"] == CELLS[first.cell][0]
        assert answers[f"Is the {name} large or small?"] == SIZES[first.size][0]
        assert SIZES[first.size][0] == ("large" if first.radius > 17 else "small")
        assert answers["Count the objects."] == str(len(scene.things))


@pytest.mark.parametrize("make", [images, videos], ids=["image", "video"])
def test_the_light_tells_columns_apart(make):
    for scene in make("validation", 20):
        bare = replace(scene, things=(), card=None)
        warmth = [f[0].astype(float).mean(0) - f[2].astype(float).mean(0) for f in render([bare])[0]]
        thirds = np.mean(warmth, 0)[: SIZE[0] // 3 * 3].reshape(3, -1).mean(1)  # red less blue, left to right
        assert (np.diff(thirds) < -25).all()


def test_relations_compare_centres():
    seen = set()
    for scene in images("test", 40):
        answers = answers_of(scene, "relation")
        for a in scene.things:
            for b in scene.things:
                one, other = (f"{COLOURS[t.colour][0]} {SHAPES[t.shape][0]}" for t in (a, b))
                across = answers.get(f"Is the {one} to the left or to the right of the {other}?")
                down = answers.get(f"Is the {one} above or below the {other}?")
                assert across in (None, "to the left" if a.x < b.x else "to the right")
                assert down in (None, "above" if a.y < b.y else "below")
                seen |= {across, down}
    assert seen == {None, "to the left", "to the right", "above", "below"}


def test_things_move_as_their_answer_says():
    seen = set()
    for scene in videos("validation", 25):
        bare = replace(scene, card=None)
        drawn, empty = (render([x])[0].astype(float) for x in (bare, replace(bare, things=())))
        t = scene.things[0]
        shown = np.abs(drawn - empty).sum(1)[[0, 1]] * (1 / scene.fps < t.end)
        (x0, y0), (x1, y1) = (
            ((f.sum(0) * np.arange(SIZE[0])).sum() / f.sum(), (f.sum(1) * np.arange(SIZE[1])).sum() / f.sum())
            for f in shown
        )
        if max(abs(x1 - x0), abs(y1 - y0)) > 40:
            continue  # it left on one side and came back on the other
        way = np.sign(np.round([x1 - x0, y1 - y0])).astype(int)
        assert tuple(way) == MOTIONS[t.motion][4]
        answers = answers_of(scene, "motion")
        assert answers[f"Which way does the {COLOURS[t.colour][0]} {SHAPES[t.shape][0]} move?"] == MOTIONS[t.motion][2]
        seen.add(t.motion)
    assert len(seen) == len(MOTIONS)


def test_cards_and_times_are_shown_when_they_are_said_to_be():
    found = 0
    for scene in videos("test", 30, frames=60):
        answers = answers_of(scene, "time") | answers_of(scene, "needle")
        for prompt, answer in answers.items():
            if prompt.startswith("What appears at second "):
                second = int(prompt.split()[-1].rstrip("?"))
                (there,) = [t for t in scene.things if t.start <= second < t.end]
                assert answer.endswith(f"{COLOURS[there.colour][0]} {SHAPES[there.shape][0]}")
                found += 1
        if scene.card is not None:
            frames = render([replace(scene, things=())])[0].astype(float)
            y, x = int(scene.card.y - 0.85 * scene.card.half_height), int(scene.card.x)
            bright = [i / scene.fps for i, f in enumerate(frames) if f[:, y, x - 2 : x + 3].mean() > 215]
            assert bright and scene.card.start <= bright[0] and bright[-1] < scene.card.end
            kind = "number" if scene.card.text.isdigit() else "word"
            assert answers[f"What {kind} is on the card?"] == scene.card.text
    assert found > 50


@pytest.mark.parametrize("make,types", [(images, IMAGE_TYPES), (videos, VIDEO_TYPES)], ids=["image", "video"])
def test_every_kind_is_asked_in_both_languages(make, types):
    asked = [q for scene in make("train", 30) for q in every_question(scene)]
    assert {q.type for q in asked} == set(types)
    for language in ("en", "zh"):
        assert {q.type for q in asked if q.language == language} == set(types)
    assert all(q.prompt.isascii() == (q.language == "en") for q in asked)


def test_only_the_types_asked_for():
    scene = images("train", 1)[0]
    assert {q.type for q in ask(scene, np.random.default_rng(0), 20, ("size",))} == {"size"}
    assert ask(scene, np.random.default_rng(0), 20, ("motion",)) == []


def test_types_with_more_weight_are_asked_more():
    scene = images("train", 1)[0]
    plain, heavy = (ask(scene, np.random.default_rng(0), 400, ("size", "count"), w) for w in (None, {"size": 3.0}))
    shares = [np.mean([q.type == "size" for q in asked]) for asked in (plain, heavy)]
    assert abs(shares[0] - 0.5) < 0.1 and abs(shares[1] - 0.75) < 0.1


def test_batches_hold_the_answers():
    rng = np.random.default_rng(0)
    batch = make_batch("train", range(3), (*SIZE, 8), [1.0, 2.0, 4.0], 5, rng)
    assert batch.ids.shape[:2] == (3, 5) and batch.step.tolist() == [4.0, 2.0, 1.0]
    for row, marks, asked in zip(batch.ids, batch.answer, batch.questions, strict=True):
        for ids, mark, q in zip(row, marks, asked, strict=True):
            assert tokenizer().decode(ids[mark].tolist(), skip_special_tokens=False) == q.answer + "<|im_end|>"
            assert q.prompt in tokenizer().decode(ids.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(split="all"), "split must be one of"),
        (dict(width=170), "multiples of 28"),
        (dict(height=140), "at least 168"),
        (dict(frames=3), "even number"),
    ],
    ids=["split", "width", "height", "frames"],
)
def test_refuses_what_cannot_be_drawn(change, words):
    with pytest.raises(ValueError, match=words):
        sample_scene(**(dict(split="train", index=0, width=168, height=168, frames=2) | change))


def test_refuses_to_draw_two_sizes_together():
    with pytest.raises(ValueError, match="one size"):
        render(images("train", 1) + images("train", 1, (168, 168)))
