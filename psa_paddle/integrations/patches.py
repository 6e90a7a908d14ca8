"""Changes to live objects that are undone exactly."""

from __future__ import annotations

_MISSING = object()


class Patches:
    """Remembers what it changed, and puts it back in reverse order."""

    def __init__(self):
        self._undo = []

    def attribute(self, owner, name: str, value) -> None:
        """Set an attribute on the instance; ``undo`` restores the instance's own value or its absence."""
        old = owner.__dict__.get(name, _MISSING)
        object.__setattr__(owner, name, value)
        self._undo.append(lambda: self._restore(owner, name, old))

    def pre_hook(self, layer, hook) -> None:
        """Register a forward pre-hook that sees keyword arguments."""
        self._undo.append(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)

    @staticmethod
    def _restore(owner, name: str, old) -> None:
        if old is _MISSING:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, old)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()
