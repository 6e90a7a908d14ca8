"""What a model is handed for an answer."""

import re
from types import SimpleNamespace

import paddle

from psa_paddle.integrations.language import inference as module

PADS = re.compile(r"(<\|(?:image|video)_pad\|>)+")


class Handed(list):
    """One row an answer, in order.

    asked, settings: as ``answer`` takes them; text: the conversation, a run of vision tokens shown as one; pixels,
    grids: what the vision tower saw, portion by portion; positions: the keywords of ``get_rope_index``; gradients:
    enabled?
    """

    def __init__(self, inference):
        self._inference, self._answer = inference, module.answer
        self._index = inference.model.model.get_rope_index

    def answer(self, parts, asked, cache, plug, settings, watch):
        text = PADS.sub(r"\1", parts.processor.tokenizer.decode(asked.ids[0].tolist()))
        gradients = paddle.is_grad_enabled()
        self.append(
            SimpleNamespace(asked=asked, settings=settings, text=text, pixels=[], grids=[], gradients=gradients)
        )
        return self._answer(parts, asked, cache, plug, settings, watch)

    def tower(self, layer, args, kwargs):
        self[-1].pixels.append(args[0])
        self[-1].grids += kwargs["grid_thw"].tolist()

    def index(self, **keywords):
        self[-1].positions = keywords
        return self._index(**keywords)

    def __enter__(self):
        inner = self._inference.model.model
        self._hook = inner.visual.register_forward_pre_hook(self.tower, with_kwargs=True)
        object.__setattr__(inner, "get_rope_index", self.index)
        module.answer = self.answer
        return self

    def __exit__(self, *error):
        self._hook.remove()
        object.__delattr__(self._inference.model.model, "get_rope_index")
        module.answer = self._answer
