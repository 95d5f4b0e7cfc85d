"""Cut the example's sample from the CIFAR-10 test set: 50 images a class, as WebDataset shards.

Deterministic: the first 50 of each class in the test set's own order, keyed by their index in it.

    python examples/cifar10/make_sample.py cifar10_test.parquet examples/cifar10/data
"""

import io
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

PER_CLASS = 50
SHARDS = 4


def main(source: str, target: str) -> None:
    table = pq.read_table(source, columns=["image", "label"])
    taken: Counter[int] = Counter()
    chosen = []
    for index, label in enumerate(table["label"].to_pylist()):
        if taken[label] < PER_CLASS:
            taken[label] += 1
            chosen.append(index)
    Path(target).mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        path = Path(target) / f"cifar10-test-{shard:03d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            # Strided, so that every shard holds every class.
            for index in chosen[shard::SHARDS]:
                _add(archive, f"{index:05d}.png", table["image"][index].as_py())
                _add(archive, f"{index:05d}.cls", str(table["label"][index].as_py()).encode())
        print(path, path.stat().st_size)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
