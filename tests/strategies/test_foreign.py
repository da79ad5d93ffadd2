"""Strategies of other packages: found by their entry point, refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]

MODULE = '''
"""Smallest id last."""
import numpy as np
reads = ("embeddings",)
summary = "Longest embedding first."
def utilities(pool, rng):
    return np.linalg.norm(pool.embeddings, axis=1)
'''
RANKS = """
import numpy as np
from strategies import base
pool = base.Pool(np.array([1, 2, 3]), embeddings=np.array([[1.0], [9.0], [4.0]]))
assert "longest" in base.names() and "entropy" in base.names()
print(base.rank(base.get("longest"), pool, seed=0).tolist())
print(base.rank(base.get("hybrid"), pool, 0, {"longest": 1}).tolist())
"""
LOADS = """
from strategies import base
try:
    base.get("longest")
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a wheel with one module and one entry point into a folder of its own."""
    folder = tmp_path_factory.mktemp("foreign")
    wheel = folder / "longest_first-1.0-py3-none-any.whl"
    info = "longest_first-1.0.dist-info"
    with ZipFile(wheel, "w") as file:
        file.writestr("longest_first.py", MODULE)
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: longest-first\nVersion: 1.0\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        points = "[labelclimb.strategies]\nlongest = longest_first\n"
        file.writestr(f"{info}/entry_points.txt", points)
        file.writestr(f"{info}/RECORD", "")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def said(site: Path, code: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_an_installed_package_adds_a_strategy(installed: Path) -> None:
    assert said(installed, RANKS) == ["[2, 3, 1]", "[2, 3, 1]"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reads = ('emeddings',)", "reads ['emeddings'], which a Pool does not have"),
        ("del summary", "has no summary; see strategies.base.Strategy"),
        ("import colour_science_of_rust", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_it_is_said(
    installed: Path, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "longest_first.py").write_text(f"{MODULE}\n{line}\n")
    (text,) = said(Path(f"{tmp_path}{os.pathsep}{installed}"), LOADS)
    assert text.startswith("strategy 'longest' (longest_first)") and message in text


def test_our_names_cannot_be_taken(installed: Path, tmp_path: Path) -> None:
    info = tmp_path / "thief-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[labelclimb.strategies]\nentropy = longest_first\n")
    code = (
        "from strategies import base\ntry:\n    base.names()\nexcept ValueError as e:\n    print(e)"
    )
    (text,) = said(tmp_path, code)
    assert "['entropy']" in text
