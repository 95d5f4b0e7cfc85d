"""A failed pass leaves an actor that has every CPU; prints the free CPUs before and after it ends.

Run by ``test_rejoin.py`` in a process of its own, since Ray joins one cluster a process.
"""

import json
import os
import secrets
import sys

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster  # reads the token as it is imported

    from pipeline.cluster.executor import Executor

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    executor = Executor(address=cluster.address)
    try:
        with executor.join():

            @ray.remote(num_cpus=2)
            class Defense:
                def made(self) -> int:
                    return 1

            left = Defense.remote()
            ray.get(left.made.remote())
            before = ray.available_resources().get("CPU", 0)
            executor.rejoin()
            # Whoever waits for both CPUs gets them, though the handle is still there.
            after = ray.get(ray.remote(num_cpus=2)(lambda: 2).remote(), timeout=60)
            print(json.dumps({"before": before, "after": after, "handle": repr(left)[:5]}))
            with executor.join():
                executor.rejoin()
                assert ray.is_initialized()
        assert not ray.is_initialized()
        ray.init(address=cluster.address, logging_level="error")
        kept = Defense.remote()
        executor.rejoin()
        assert ray.get(kept.made.remote(), timeout=60) == 1, "the caller's own connection"
        ray.shutdown()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
