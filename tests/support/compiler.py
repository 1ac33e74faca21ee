"""Tests that compile to machine code, for which Inductor needs a C++ compiler."""

from __future__ import annotations

import os
import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))),
    reason="Inductor needs a C++ compiler, and there is none",
)
