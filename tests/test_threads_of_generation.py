"""Same seed, same bytes: on one thread and on two."""

import os
import subprocess
import sys

MAKE = """
import sys, loragen
for name in ("sg", "icm", "topk"):
    adapter = loragen.generate("What does a tenant write about?", labels=["rent", "noise"], generator=name, seed=3)
    adapter.save(f"{sys.argv[1]}/{name}")
made = [f"{sys.argv[1]}/{name}" for name in ("sg", "icm")]
for method in ("dare",):
    loragen.combine(made, method=method, rank=3, seed=5).adapter.save(f"{sys.argv[1]}/{method}")
"""


def test_generated_files_are_the_same_on_any_number_of_threads(tmp_path):
    for threads in ("1", "2"):
        cache = {"XDG_CACHE_HOME": str(tmp_path / f"cache-{threads}")}  # or the second takes the first's embeddings
        subprocess.run(
            [sys.executable, "-c", MAKE, str(tmp_path / threads)],
            env=os.environ | cache | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            check=True,
        )
    one, two = (
        {path.relative_to(tmp_path / threads): path.read_bytes() for path in (tmp_path / threads).rglob("*.*")}
        for threads in ("1", "2")
    )
    assert len(one) >= 12
    assert one == two
