# SPDX-License-Identifier: Apache-2.0
"""Exceptions: one class, with the C status and its message."""

from __future__ import annotations

import enum
from typing import Optional


class Status(enum.IntEnum):
    """fex_status; tests compare the values with the C header."""

    OK = 0
    ERROR_INVALID_ARGUMENT = 1
    ERROR_UNSUPPORTED = 2
    ERROR_OUT_OF_MEMORY = 3
    ERROR_DEVICE_OUT_OF_MEMORY = 4
    ERROR_WORKSPACE = 5
    ERROR_INDEX = 6
    ERROR_NOT_PREPARED = 7
    ERROR_NO_DRIVER = 8
    ERROR_NO_DEVICE = 9
    ERROR_DRIVER = 10
    ERROR_NO_COMPILER = 11
    ERROR_COMPILE = 12
    ERROR_JIT_FORBIDDEN = 13
    ERROR_IO = 14
    ERROR_CORRUPT = 15
    ERROR_FORKED = 16


class FlashExpertError(RuntimeError):
    """A call failed. `status` is the C library's result."""

    def __init__(self, status: Status, message: str):
        super().__init__(f"FEX_{status.name}: {message}")
        self.status = status
        self.message = message


class ArgumentError(FlashExpertError, ValueError):
    """An argument is wrong; `argument` is its name where that is known."""

    def __init__(self, message: str, argument: Optional[str] = None):
        super().__init__(Status.ERROR_INVALID_ARGUMENT, message)
        self.argument = argument


class LibraryError(ImportError):
    """The shared library was not found or is of another version."""


def error_of(code: int, message: str) -> FlashExpertError:
    """The exception for a failed call's status and fex_last_error()."""
    try:
        status = Status(code)
    except ValueError:
        status, message = Status.ERROR_UNSUPPORTED, f"status {code}: {message}"
    if status is Status.ERROR_INVALID_ARGUMENT:
        return ArgumentError(message)
    return FlashExpertError(status, message)
