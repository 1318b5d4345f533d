"""The tests that compute, under the arithmetics of other processors: python tools/elsewhere.py [--part WORD] [NAME ...]

Without a NAME under each of ARITHMETICS in turn. With --part, under one of them, and as many of the test files as fit
into three minutes: WORD, the commit's hash say, decides which arithmetic and in which order the files come.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"

# name -> what is set. Those of a library that is not there, or of another kind of processor, change nothing.
ARITHMETICS = {
    "oldest instructions": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "AVX2, two threads": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AUTO",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # more threads than cores: one that waits should not spin
        "OPENBLAS_NUM_THREADS": "2",
        "TORCH_THREADS": "2",  # read in tests/conftest.py
    },
    "sums in another order": {"ROUNDING": "1"},  # see tests/rounding.py
    "and in a third": {"ROUNDING": "2"},
}

# What these test is files, options, texts, processes or the build, and not numbers.
NOT_NUMBERS = """
    alone annotations authors_config bench book book_ext browser cache cli compare cremad data_commands
    data_files devices environment from_raw_to_trained interactive kinetics_sounds layouts machines
    media notebooks nvgesture preflight rerun rooms runs sarcasm studies teaching tools twitter2015
"""
SECONDS = 170  # of a part


def files() -> list[Path]:
    """The test files whose results are numbers: all but NOT_NUMBERS, so a new one is among them."""
    return [p for p in sorted(TESTS.glob("test_*.py")) if p.stem[5:] not in NOT_NUMBERS.split()]


def part(word: str) -> tuple[str, list[Path]]:
    """One arithmetic, and all files in an order: both by the word."""

    def number(text: str) -> int:
        return int(hashlib.sha256((word + text).encode()).hexdigest(), 16)

    names = list(ARITHMETICS)
    return names[number("") % len(names)], sorted(files(), key=lambda path: number(path.name))


def run(name: str, paths: list[Path], jobs: str, seconds: int | None = None) -> bool:
    """True where all tests passed that could begin within so many seconds."""
    settings = ARITHMETICS[name] | ({"TESTS_END": str(time.time() + seconds)} if seconds else {})
    print(f"== {name}:", *(f"{key}={value}" for key, value in settings.items()), flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", jobs, "--dist", "worksteal", *paths]
    begin = time.monotonic()
    passed = subprocess.run(command, env=os.environ | settings, check=False).returncode == 0
    print(f"== {name}: {time.monotonic() - begin:.0f} s", flush=True)
    return passed


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ARITHMETICS))
    parser.add_argument("--part", metavar="WORD", help="one arithmetic, for three minutes")
    parser.add_argument("--jobs", default="2", help="processes")
    given = parser.parse_args(words)
    if unknown := set(given.names) - set(ARITHMETICS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(ARITHMETICS)}")
    if given.part:
        name, paths = part(given.part)
        passed = run(name, paths, given.jobs, SECONDS)
        left = ", ".join(other for other in ARITHMETICS if other != name)
        print(f"== left, for `make test-elsewhere`: {left}")
        return not passed
    failed = [name for name in given.names or ARITHMETICS if not run(name, files(), given.jobs)]
    print("== failed under:", "; ".join(failed) if failed else "none of them")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
