"""What the world is made of, and how its things are called: English name, Chinese name."""

COLOURS = (
    ("red", "红色", (220, 40, 40)),
    ("orange", "橙色", (240, 140, 20)),
    ("yellow", "黄色", (240, 225, 40)),
    ("green", "绿色", (30, 170, 60)),
    ("blue", "蓝色", (40, 90, 230)),
    ("purple", "紫色", (130, 50, 180)),
    ("pink", "粉色", (250, 140, 190)),
    ("white", "白色", (245, 245, 245)),
)
SHAPES = (
    ("circle", "圆形"),
    ("square", "正方形"),
    ("triangle", "三角形"),
    ("star", "星形"),
    ("cross", "十字形"),
    ("ring", "圆环"),
    ("heart", "心形"),
    ("diamond", "菱形"),
)
SIZES = (("small", "小"), ("large", "大"))
# The frame's nine cells in reading order.
CELLS = (
    ("top left", "左上角"), ("top", "上方"), ("top right", "右上角"),
    ("left", "左边"), ("centre", "中间"), ("right", "右边"),
    ("bottom left", "左下角"), ("bottom", "下方"), ("bottom right", "右下角"),
)  # fmt: skip
# English verb phrase, Chinese, one-word answer in English and Chinese, unit vector (x to the right, y down).
MOTIONS = (
    ("moves left", "向左移动", "left", "向左", (-1, 0)),
    ("moves right", "向右移动", "right", "向右", (1, 0)),
    ("moves up", "向上移动", "up", "向上", (0, -1)),
    ("moves down", "向下移动", "down", "向下", (0, 1)),
    ("stays still", "静止不动", "still", "不动", (0, 0)),
)
STILL = 4
# Of columns and of rows: English and Chinese question, and the answers for a smaller and for a larger coordinate.
RELATIONS = (
    ("to the left or to the right of", "左边还是右边", ("to the left", "左边"), ("to the right", "右边")),
    ("above or below", "上方还是下方", ("above", "上方"), ("below", "下方")),
)
WORDS = ("CAT", "DOG", "SUN", "CAR", "KEY", "BOX", "FOX", "MAP", "TEA", "HAT", "JAM", "PEN")


def thing_name(thing, chinese: bool, with_size: bool = False) -> str:
    """``red circle`` or ``红色的圆形``; ``large red circle`` or ``大的红色圆形`` with its size."""
    colour, shape = COLOURS[thing.colour][chinese], SHAPES[thing.shape][chinese]
    size = SIZES[thing.size][chinese]
    if chinese:
        return f"{size}的{colour}{shape}" if with_size else f"{colour}的{shape}"
    return f"{size} {colour} {shape}" if with_size else f"{colour} {shape}"


def article(name: str) -> str:
    """``an orange circle``, ``a red circle``."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
