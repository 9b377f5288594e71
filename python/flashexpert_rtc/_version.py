# SPDX-License-Identifier: Apache-2.0
"""The version of this package: that of the C interface it speaks."""

VERSION = "0.1.0"
