"""Put on PYTHONPATH, this makes every Python process of a job fragile, and its votes slow.

Python imports it by itself when it starts, before Ray or the pipeline: the code under test has no
hook for tests. After the modules below are imported, their functions are wrapped:

- an image whose bytes hold POISON aborts the process that decodes it, as a bug in a C library does;
- an image all of whose pixels are 13 aborts the process that votes on it;
- SABOTAGE_LOG names a file to which a vote on a unit that begins adds a line: number and rows;
- SABOTAGE_SECONDS makes each vote on a unit take so much longer;
- SABOTAGE_PROCESSOR is the name of the processor.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time

POISON = b"POISON"
UNLUCKY = 13


def _fragile_decode(module):
    real = module.decode

    def decode(data, *arguments):
        if data and POISON in data:
            os.abort()
        return real(data, *arguments)

    module.decode = decode


def _fragile_vote(module):
    real = module.VoteOnUnit.__call__

    def vote(self, decoded):
        if any(cell and set(cell) == {UNLUCKY} for cell in decoded["pixels"].to_pylist()):
            os.abort()
        if "SABOTAGE_LOG" in os.environ:
            with open(os.environ["SABOTAGE_LOG"], "a", encoding="ascii") as log:
                log.write(f"{decoded['unit'][0]} {decoded.num_rows}\n")
        time.sleep(float(os.environ.get("SABOTAGE_SECONDS", "0")))
        return real(self, decoded)

    module.VoteOnUnit.__call__ = vote


def _other_processor(module):
    if "SABOTAGE_PROCESSOR" in os.environ:
        module.processor = lambda: os.environ["SABOTAGE_PROCESSOR"]


_WRAP = {
    "pipeline.sources.decode": _fragile_decode,
    "pipeline.voting.vote": _fragile_vote,
    "pipeline.runs.numerics": _other_processor,
}


class _Saboteur(importlib.abc.MetaPathFinder):
    """Finds the modules of _WRAP as usual, and wraps them once they are loaded."""

    def find_spec(self, name, path, target=None):
        wrap = _WRAP.get(name)
        spec = wrap and importlib.machinery.PathFinder.find_spec(name, path)
        if not spec:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Saboteur())
