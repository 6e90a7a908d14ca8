"""Changes to live objects that are undone exactly, and that a copied or pickled object undoes on itself."""

from __future__ import annotations


class _Missing:
    """Stands for an attribute that an instance did not have; the class itself, which survives copies and pickles."""


class Patches:
    """Remembers what it changed as plain data, and puts it back in reverse order."""

    def __init__(self):
        self._attributes: list[tuple] = []
        self._hooks: list[tuple] = []

    def attribute(self, owner, name: str, value) -> None:
        """Set an attribute on the instance; ``undo`` restores the instance's own value or its absence."""
        self._attributes.append((owner, name, owner.__dict__.get(name, _Missing)))
        object.__setattr__(owner, name, value)

    def pre_hook(self, layer, hook, first: bool = False) -> None:
        """Register a bound method as a forward pre-hook that sees keyword arguments, once a layer; first: it is asked
        before those that are there, and those that others register later.

        It is filed under its name: Paddle's numbers are a process's own, and a layer that was pickled would bring some
        that the next process gives out again.
        """
        name = f"psa_paddle.{hook.__qualname__}"
        layer._forward_pre_hooks[name] = hook
        layer._forward_pre_hooks_with_kwargs_flag[name] = True
        if first:
            layer._forward_pre_hooks.move_to_end(name, last=False)
        self._hooks.append((layer, name))

    def undo(self) -> None:
        """Put everything back; nothing is remembered then."""
        while self._hooks:
            layer, name = self._hooks.pop()
            del layer._forward_pre_hooks[name], layer._forward_pre_hooks_with_kwargs_flag[name]
        while self._attributes:
            owner, name, old = self._attributes.pop()
            if old is _Missing:
                object.__delattr__(owner, name)
            else:
                object.__setattr__(owner, name, old)
