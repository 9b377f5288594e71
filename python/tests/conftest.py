# SPDX-License-Identifier: Apache-2.0
"""Runs the tests on the package beside them, without installing it."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, os.environ.get("FLASHEXPERT_PYTHON", str(HERE.parent)))
