"""Which plug is in force on a model.

The model keeps the list itself, so that a copy of it has its own. The last entry is in force; plugs are left in any
order, and each leaves the others as they are.
"""

from __future__ import annotations

from contextlib import contextmanager

PLUGS = "_psa_plugs"  # attribute of a plugged model: its entries; gone when there are none


class Entry:
    """A place in the list. A ``with`` leaves its own place, whatever was put into it or after it meanwhile."""

    def __init__(self, plug):
        self.plug = plug


def bare_model(model):
    """The model of a ``QwenVLInference``; any other model itself."""
    return model.model if hasattr(model, "processor") and hasattr(model, "inference_image") else model


def plug_of(model):
    """The plug in force on the model, with ``calls`` and ``reset``; None when it has none."""
    entries = getattr(bare_model(model), "__dict__", {}).get(PLUGS)
    return entries[-1].plug if entries else None


def enter(model, plug) -> Entry:
    """Put a plug in force until its entry is left."""
    entry = Entry(plug)
    with _changing(model) as entries:
        entries.append(entry)
    return entry


def leave(model, entry: Entry) -> None:
    """Take an entry out; the last of the others is in force. Does nothing when it is out already."""
    with _changing(model) as entries:
        if entry in entries:
            entries.remove(entry)


def replace(model, plug) -> None:
    """Put a plug in the place of the one in force, if any."""
    with _changing(model) as entries:
        if entries:
            entries[-1].plug = plug
        else:
            entries.append(Entry(plug))


def clear(model) -> None:
    """Take every plug out."""
    with _changing(model) as entries:
        entries.clear()


@contextmanager
def suspended(model):
    """Take every plug out, and put the same ones back afterwards, whatever happens inside."""
    model = bare_model(model)
    with _changing(model) as entries:
        kept = list(entries)
        entries.clear()
    try:
        yield
    finally:
        with _changing(model) as entries:
            entries[:0] = kept


@contextmanager
def _changing(model):
    """Yields the entries to be changed; connects the plug that is in force afterwards in place of the one before."""
    entries = model.__dict__.get(PLUGS, [])
    before = plug_of(model)
    yield entries
    after = entries[-1].plug if entries else None
    if before is not None and after is not before:
        before.disconnect()
        object.__delattr__(model, PLUGS)
    if after is not None and after is not before:
        object.__setattr__(model, PLUGS, entries)
        after.connect()
