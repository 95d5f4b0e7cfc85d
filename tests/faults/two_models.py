"""Votes jobs on a cluster whose two nodes have processors and GPUs of different models.

``python -m tests.faults.two_models FOLDER`` prints, as JSON, what became of each job. The nodes are
raylets on this machine that were told other names; they have no GPU to compute on.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY, png, random_images, write_shard, write_tiny_weights
from tests.faults.chaos import SABOTAGE

JOBS = {
    "cpu": ("--device", "cpu"),
    "cuda": ("--device", "cuda"),
    "pinned": ("--device", "cuda", "--accelerator-type", "T4"),
}


def main(folder: Path) -> None:
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(SABOTAGE), str(REPOSITORY)]),
        "SABOTAGE_SECONDS": "0.2",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    samples = {f"{i:03d}.png": png(image) for i, image in enumerate(random_images(24))}
    data = write_shard(folder / "s.tar", samples)
    weights = write_tiny_weights(folder / "tiny.safetensors")
    from ray.cluster_utils import Cluster  # reads the token as it is imported

    nodes = [
        {
            "num_cpus": 2,
            "num_gpus": 1,
            "object_store_memory": 100 * 2**20,
            "resources": {f"accelerator_type:{gpu}": 1},
            "env_vars": {"SABOTAGE_PROCESSOR": processor},
        }
        for gpu, processor in (("L4", "Zen 3"), ("T4", "Zen 4"))
    ]
    cluster = Cluster(initialize_head=True, head_node_args={**nodes[0], "include_dashboard": False})
    try:
        cluster.add_node(**nodes[1])
        print(json.dumps({name: job(cluster.address, data, weights, name) for name in JOBS}))
    finally:
        cluster.shutdown()


def job(address: str, data: Path, weights: Path, name: str) -> dict:
    out = data.parent / name
    command = [sys.executable, "-m", "jobs", "votes", "--data", str(data), "--out", str(out)]
    command += ["--weights", str(weights), "--microbatch", "16", *JOBS[name]]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=False,
    )
    return {"code": done.returncode, "said": done.stderr}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
