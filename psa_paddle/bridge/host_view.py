"""What Triton's interpreter asks of a tensor, over host memory that it may read and write in place."""

from __future__ import annotations


class HostView:
    """A host array as Triton's interpreter (``TRITON_INTERPRET=1``) wants it: a few methods of ``torch.Tensor``.

    The interpreter copies every argument's storage to the host and back; here both copies are the array itself.
    The owner of the memory must outlive the view.
    """

    def __init__(self, pointer: int, dtype: str, shape=(), strides=()):
        self.pointer, self.dtype, self.shape, self._strides = pointer, dtype, tuple(shape), tuple(strides)

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self.pointer

    def untyped_storage(self) -> HostView:
        """The memory itself."""
        return self

    def cpu(self) -> HostView:
        """The host's copy: this very memory."""
        return self

    def copy_(self, other: HostView) -> None:
        """Nothing to do: the interpreter wrote into this very memory."""

    def new_empty(self, size, device=None) -> HostView:
        """A view of nothing, which ``set_`` points somewhere."""
        return HostView(0, self.dtype)

    def set_(self, storage: HostView, offset: int, size, stride) -> None:
        """Point at a storage."""
        self.pointer, self.shape, self._strides = storage.pointer, tuple(size), tuple(stride)

    def storage_offset(self) -> int:
        """Elements before the first: none, ``data_ptr`` counts them."""
        return 0

    def size(self):
        """The shape."""
        return self.shape

    def stride(self):
        """Elements from one index of each axis to the next."""
        return self._strides
