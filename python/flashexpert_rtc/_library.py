# SPDX-License-Identifier: Apache-2.0
"""Finds the shared library, once, and turns its statuses into exceptions."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
from typing import Iterator

from ._errors import LibraryError, error_of
from ._structures import FUNCTIONS
from ._version import VERSION

NAME = "libflashexpert_rtc.so.0"


def _candidates() -> Iterator[str]:
    """Where the library may be, the first that exists wins."""
    named = os.environ.get("FLASHEXPERT_LIBRARY")
    if named:
        yield named
        return
    folder = pathlib.Path(__file__).resolve().parent
    yield str(folder / NAME)
    # Installed in PREFIX/lib/pythonX.Y/site-packages: look in PREFIX/lib.
    for prefix in folder.parents:
        for lib in ("lib", "lib64"):
            yield str(prefix / lib / NAME)
    yield NAME  # wherever the dynamic linker looks


def _open() -> ctypes.CDLL:
    tried = []
    for path in _candidates():
        if os.sep in path and not os.path.exists(path):
            tried.append(path)
            continue
        try:
            return ctypes.CDLL(path)
        except OSError as failure:
            tried.append(f"{path} ({failure})")
    raise LibraryError(
        f"{NAME} not found; set FLASHEXPERT_LIBRARY to its path. Tried: "
        + ", ".join(tried))


@functools.lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """The library, opened on first use, with every function declared."""
    handle = _open()
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(handle, name)
        function.restype = result
        function.argtypes = arguments
    found = handle.fex_version().decode()
    if found.split(".")[:2] != VERSION.split(".")[:2]:
        raise LibraryError(
            f"flashexpert_rtc {VERSION} found a library of version {found}")
    return handle


def check(status: int) -> None:
    """Raises what a failed call means, in the thread that made it."""
    if status:
        message = library().fex_last_error().decode(errors="replace")
        raise error_of(status, message)
