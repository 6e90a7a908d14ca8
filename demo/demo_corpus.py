"""The small English and Chinese text on which the demo tokenizer is trained."""

import re
from itertools import product

import numpy as np
from world import ask, sample_scene, vocabulary

COLOURS = "red orange yellow green blue purple pink brown black white grey dark bright".split()
SHAPES = "circle square triangle star rectangle line dot ring cross arrow heart diamond shape".split()
PLACES = "left right top bottom centre middle corner edge above below behind front near inside outside".split()
MOTIONS = (
    "moves moving slides falls rises turns spins rolls jumps stops starts appears disappears grows shrinks waits "
    "crosses follows passes enters leaves returns"
).split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve twenty hundred thousand".split()
OTHERS = (
    "image picture photo video clip frame scene background foreground object number digit colour size time second "
    "minute first last next before after during then while until slowly quickly again together once twice large small "
    "big little bright round straight through between across toward describe count show tell explain answer question "
    "please what which where when who how many much is are was were has have does there here this that these those "
    "and but or not no yes with without from into the a an of in on at to for by it they user system assistant helpful "
    "sparse dense attention token tokens model vision language layer block head query key value memory fast short long"
).split()

SENTENCES = """
You are a helpful assistant.
Describe this image. Describe this video. Please describe the picture in detail.
What is in this image? What happens in this video? What is the number in the picture?
How many circles are there? How many shapes can you see? Count the objects.
Which colour is the square? Where does the circle go? What changes after the first scene?
When does the number appear? Is the triangle above or below the star? What's behind it?
I'm sure it's there; they've moved, we're waiting, don't stop, you'll see, he'd know.
The answer is 0, 1, 2, 3, 4, 5, 6, 7, 8 or 9. It takes 10 seconds, 25 frames, 100 percent.
请描述这个视频。请描述这张图片。请详细描述图片的内容。请用一句话回答。
这个视频里有什么?图片里有几个圆形?画面中间的数字是多少?场景什么时候发生变化?
红色的圆形从左向右移动。绿色的方块从上向下移动。黄色的三角形从右向左移动。蓝色的星星在旋转。
紫色的圆在左上角,白色的数字在右下角,黑色的背景,灰色的线条,橙色的箭头,粉色的心形,棕色的矩形。
前面后面左边右边上面下面中间里面外面旁边附近角落边缘。
一个两个三个四个五个六个七个八个九个十个。零一二三四五六七八九十百千万。
第一帧,第二帧,最后一帧。一秒,两秒,十秒,一分钟。开始,结束,出现,消失,变大,变小,停止,继续。
你是一个有用的助手。你好,谢谢,再见。是的,不是,可以,不可以,知道,不知道。
视频开始的时候有一个红色的圆形,然后画面切换到另一个场景,最后出现一个数字。
稀疏注意力,稠密注意力,视觉语言模型,长视频理解,加速推理,显存占用,图像分块,时间和空间。
物体的颜色和形状,物体的数量和位置,物体的运动方向和速度,快速,缓慢,很多,很少,全部,部分。
"""


def cut(text: str) -> list[str]:
    """Cut Chinese text around the names of things, as English is by its spaces: else a token would span two facts."""
    tables = (vocabulary.COLOURS, vocabulary.SHAPES, vocabulary.CELLS, vocabulary.MOTIONS)
    names = sorted((row[1] for table in tables for row in table), key=len, reverse=True)
    return [text] if text.isascii() else re.split(f"({'|'.join(names)}|[0-9]+|[,。;的])", text)


def spoken_world() -> list[str]:
    """Questions and answers about 3,000 scenes of the training split."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(3000):
        scene = sample_scene("train", index, 168, 168, 1 if index % 2 else 40, 2.0)
        lines += [text for q in ask(scene, rng, 3) for text in (q.prompt, q.answer)]
    return lines


def corpus() -> list[str]:
    """Return the training text: template sentences over the word lists, the words alone, and what the world says."""
    lines = [f"The {colour} {shape} is there." for colour, shape in product(COLOURS, SHAPES)]
    lines += [f"A {motion} {place}." for motion, place in product(MOTIONS, PLACES)]
    lines += [f"There are {number} {shape}s." for number, shape in product(NUMBERS, SHAPES)]
    words = COLOURS + SHAPES + PLACES + MOTIONS + NUMBERS + OTHERS
    lines += [f" {word} {word.capitalize()} {word}" for word in words]
    lines += SENTENCES.strip().splitlines() * 3 + spoken_world()
    return [piece for line in lines for piece in cut(line)]
