"""GPUs as ggml's registry of devices knows them, through ctypes: what there is, and a list of them for llama.cpp.

Only for a process that has loaded llama.cpp; it takes the same libraries, and `folder` is where they are. What is put
on a device is not decided here.
"""

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from localfusion.messages import Device

TYPE_GPU, TYPE_IGPU = 1, 2
"""Of ggml_backend_dev_type; others are the processor and what helps it, with its own memory."""
UNIFIED = ("MTL", "Metal")
"""How devices are called that have no memory of their own and are not said to be integrated."""
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

Pointers = ctypes.Array[ctypes.c_void_p]


def devices(folder: Path) -> tuple[Device, ...]:
    """The GPUs as they are now, of which llama.cpp uses integrated ones only where there are no others."""
    found = tuple(map(_Ggml(folder).device, _Ggml(folder).gpus()))
    return tuple(one for one in found if not one.is_integrated) or found


def device_list(folder: Path, *names: str) -> Pointers:
    """llama.cpp's list of the devices of these names, those that are there; it ends with a null.

    No GPU is asked for more than its name: asked for its memory, it would take some for this process.
    """
    ggml = _Ggml(folder) if names else None
    pointers = [pointer for pointer in ggml.gpus() if ggml.name(pointer) in names] if ggml else []
    return (ctypes.c_void_p * (len(pointers) + 1))(*pointers, None)


class _Ggml:
    """The two libraries with the functions of ggml-backend.h; a build that has none of them has no devices."""

    def __init__(self, folder: Path) -> None:
        self._registry, self._base = _library(folder, "ggml"), _library(folder, "ggml-base")

    def gpus(self) -> Iterator[int]:
        """A pointer to each GPU."""
        if self._registry is None or self._base is None:
            return
        self._registry.ggml_backend_dev_count.restype = ctypes.c_size_t
        self._registry.ggml_backend_dev_get.restype = ctypes.c_void_p
        for index in range(self._registry.ggml_backend_dev_count()):
            pointer = self._registry.ggml_backend_dev_get(ctypes.c_size_t(index))
            if self._type(pointer) in (TYPE_GPU, TYPE_IGPU):
                yield pointer

    def device(self, pointer: int) -> Device:
        """What ggml says of a device."""
        assert self._base is not None
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._base.ggml_backend_dev_memory(ctypes.c_void_p(pointer), ctypes.byref(free), ctypes.byref(total))
        name, description = self.name(pointer), self._text(pointer, "description").strip()
        is_integrated = self._type(pointer) == TYPE_IGPU or name.startswith(UNIFIED)
        return Device(name, description, total.value, free.value, is_integrated)

    def name(self, pointer: int) -> str:
        """What ggml calls a device."""
        return self._text(pointer, "name")

    def _text(self, pointer: int, what: str) -> str:
        say = getattr(self._base, f"ggml_backend_dev_{what}")
        say.restype = ctypes.c_char_p
        return (say(ctypes.c_void_p(pointer)) or b"").decode("utf-8", "replace")

    def _type(self, pointer: int) -> int:
        assert self._base is not None
        return int(self._base.ggml_backend_dev_type(ctypes.c_void_p(pointer)))


@cache
def _library(folder: Path, name: str) -> ctypes.CDLL | None:
    found = [path for path in (folder / f"lib{name}{SUFFIX}", folder / f"{name}{SUFFIX}") if path.exists()]
    return ctypes.CDLL(str(found[0])) if found else None
