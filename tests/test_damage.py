"""What damage is; `test_crash` has finished runs read damaged files."""

from __future__ import annotations

import random

from pipeline.faults.damage import damages


def test_a_damaged_file_is_never_the_same_file() -> None:
    for data in (b"", b"a", bytes(range(256)) * 4):
        for seed in range(50):
            found = dict(damages(data, random.Random(seed)))
            assert list(found) == ["missing", "truncated", "flipped"]
            assert found["missing"] is None and data not in (found["truncated"], found["flipped"])
            flipped = found["flipped"]
            if data and flipped is not None:
                assert sum((a ^ b).bit_count() for a, b in zip(data, flipped, strict=True)) == 1
