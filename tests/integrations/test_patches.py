"""Changes to live objects are undone exactly."""

from types import SimpleNamespace

import paddle

from psa_paddle.integrations.patches import Patches


class Adds(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, more=0):
        return x + more

    def hook(self, layer, args, kwargs):
        self.seen.append((args, kwargs))
        return args, {"more": kwargs.get("more", 0) + 1}


class Notes:
    def __init__(self, asked):
        self.asked = asked

    def first(self, layer, args, kwargs):
        self.asked.append("first")

    def later(self, layer, args, kwargs):
        self.asked.append("later")


def test_the_first_hook_is_asked_before_those_there_and_those_to_come():
    layer, patches, asked = Adds(), Patches(), []
    layer.register_forward_pre_hook(lambda layer, args: asked.append("there"))
    notes = Notes(asked)
    patches.pre_hook(layer, notes.first, first=True)
    patches.pre_hook(layer, notes.later)
    layer(1)
    patches.undo()
    layer(1)
    assert asked == ["first", "there", "later", "there"]


def test_an_attribute_that_changed_twice_comes_back():
    owner, patches = SimpleNamespace(kept=1), Patches()
    for value in (2, 3):
        patches.attribute(owner, "kept", value)
        patches.attribute(owner, "new", value)
    assert vars(owner) == {"kept": 3, "new": 3}
    patches.undo()
    assert vars(owner) == {"kept": 1}
    patches.undo()
    assert vars(owner) == {"kept": 1}


def test_a_hook_sees_and_changes_keywords_until_it_is_undone():
    layer, patches = Adds(), Patches()
    patches.pre_hook(layer, layer.hook)
    assert layer(1, more=5) == 7 and layer.seen == [((1,), {"more": 5})]
    patches.undo()
    assert layer(1, more=5) == 6 and len(layer.seen) == 1 and not layer._forward_pre_hooks_with_kwargs_flag
