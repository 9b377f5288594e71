# SPDX-License-Identifier: Apache-2.0
"""The ctypes declarations against the C header."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from flashexpert_rtc import _structures as st
from flashexpert_rtc import _version
from flashexpert_rtc._errors import Status

INCLUDE = pathlib.Path(os.environ.get(
    "FLASHEXPERT_INCLUDE",
    pathlib.Path(__file__).resolve().parents[2] / "include"))
HEADER = INCLUDE / "flashexpert_rtc.h"
COMPILER = os.environ.get("CC", "cc").split()

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER[0]) is None or not HEADER.exists(),
    reason="needs a C compiler and the header")


def evaluate(tmp_path, expressions):
    """The values of C expressions that the header defines."""
    lines = [f'printf("%lld\\n", (long long)({e}));' for e in expressions]
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stdio.h>\n#include <flashexpert_rtc.h>\n"
        "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    program = tmp_path / "layout"
    subprocess.run([*COMPILER, f"-I{INCLUDE}", str(source), "-o",
                    str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True)
    return [int(line) for line in printed.stdout.split()]


def test_structures(tmp_path):
    wanted = {}
    for structure, name in st.STRUCTURES.items():
        wanted[f"sizeof({name})"] = _sizeof(structure)
        for member, _ in structure._fields_:
            field = getattr(structure, member)
            wanted[f"offsetof({name}, {member})"] = field.offset
            wanted[f"sizeof((({name} *)0)->{member})"] = field.size
    assert dict(zip(wanted, evaluate(tmp_path, wanted))) == wanted


def _sizeof(structure):
    import ctypes
    return ctypes.sizeof(structure)


def test_values(tmp_path):
    short = {"float16": "F16", "bfloat16": "BF16", "float32": "F32",
             "int32": "I32", "int64": "I64"}
    wanted = {f"FEX_{status.name}": status.value for status in Status}
    for prefix, table in (("DTYPE", st.DTYPE), ("INDEX", st.INDEX_TYPE),
                          ("PASS", st.PASS)):
        for name, value in table.items():
            wanted[f"FEX_{prefix}_{short.get(name, name.upper())}"] = value
    wanted["FEX_DEVICE_NONE"] = st.DEVICE_NONE
    wanted["FEX_PREWARM_CHECK"] = st.PREWARM_CHECK
    wanted["FEX_PREWARM_REFRESH"] = st.PREWARM_REFRESH
    assert dict(zip(wanted, evaluate(tmp_path, wanted))) == wanted


def test_every_status_is_known():
    """A status added to the header must be added here."""
    listed = re.findall(r"\bX\((OK|ERROR_\w+), (\d+),", HEADER.read_text())
    assert [(status.name, str(status.value)) for status in Status] == listed


def test_every_member_is_declared():
    """A member added at a structure's end would leave offsets as they are."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    for structure, name in st.STRUCTURES.items():
        body = re.search(
            r"typedef struct %s \{(.*?)\} %s;" % (name, name), text, re.S)
        members = re.findall(r"(\w+)(?:\[\w+\])?;", body.group(1))
        assert members == [member for member, _ in structure._fields_]


def test_version():
    numbers = re.findall(
        r"#define FEX_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)",
        HEADER.read_text())
    assert _version.VERSION == ".".join(numbers)
