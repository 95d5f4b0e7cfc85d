"""``patchcert verify``: what is proven of a stored run."""

import io
import json
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.analysis.run import Run
from pipeline.analysis.stored import data_files, made_by, made_from
from pipeline.config import OutputConfig
from pipeline.preflight.findings import Caution, Check, CheckError, Finding, look_at
from pipeline.runs.proof import Proof
from pipeline.runs.unit_files import read_unit_file
from pipeline.scoring.claims import Claims
from pipeline.scoring.datasets import DATASETS, datasets_of, part_path, parts_of, score_batches
from pipeline.scoring.summary import Totals


def verify(run: str | None = None, /, *, output: OutputConfig = OutputConfig()) -> int:
    """Say what is proven of a stored run: its rows, ids, labels, and all that is made from them.

    Every file is read, and every certificate is computed again from the votes.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        output: Where results lie.

    Returns:
        1 if something is wrong.

    Raises:
        ConfigError: There is no such run.
    """
    opened, found = open_run(output.out, run), list[Finding]()
    for finding in _findings(opened):
        found.append(finding)
        if not output.json:
            print(finding, flush=True)
    wrong = sum(not finding.ok for finding in found)
    if output.json:
        checks = [{**vars(finding), "caution": finding.caution} for finding in found]
        print(json.dumps({"run_id": opened.run_id, "ok": not wrong, "checks": checks}, indent=2))
    else:
        open_questions = sum(finding.caution for finding in found)
        said = f"{wrong} of the checks failed" if wrong else "all checks hold"
        print(said + (f", {open_questions} unverified" if open_questions else ""))
        print(f"run_id={opened.run_id}")
    return 1 if wrong else 0


def _findings(run: Run) -> Iterator[Finding]:
    def manifest() -> str:
        return f"its id is the digest of all that determined the votes of {run.manifest.run_id}"

    first = list(look_at([("manifest", manifest)]))
    yield from first
    if not first[0].ok:
        return
    store = run.store
    units = look_at(
        (f"unit {unit}", partial(_unit, run, unit, file.path))
        for unit, file in sorted(store.unit_files().items())
        if unit < run.manifest.execution.units
    )
    broken = [finding for finding in units if not finding.ok]
    yield from broken
    if broken:
        return  # what is made from them cannot be right
    proofs = list[Proof]()

    def votes() -> str:
        store.units(run.manifest)
        proofs.append(store.proof(run.manifest, remembered=False))
        return _votes(proofs[0])

    found = list(look_at([("votes", votes)]))
    yield from found
    if not proofs:
        return
    yield from look_at([("ids and labels", lambda: _listed(run, proofs[0]))])
    yield from look_at(_derived(run, proofs[0]))


def _unit(run: Run, unit: int, path: str) -> str:
    read_unit_file(path, storage.read_bytes(path), run.manifest, unit)
    return path


def _votes(proof: Proof) -> str:
    said = f"{proof.units} units, sha256 {proof.sha256[:12]}..., "
    without = proof.units - proof.committed
    if without:
        return Caution(
            f"{said}unverified: of {without} no digest was kept at commit (an earlier version "
            "wrote them); they keep the rules that do not need one"
        )
    return said + "each with the digest that it was committed with"


def _listed(run: Run, proof: Proof) -> str:
    if not proof.listed:
        return Caution("unverified: the manifest keeps no digest of what was listed")
    images, of = run.manifest.execution.images, "the images, labels and votes that were imported"
    return f"{images} rows, " + (of if run.manifest.imported else "those that were listed")


def _derived(run: Run, proof: Proof) -> Iterator[Check]:
    names = [name for name in DATASETS if data_files(run.out, name, run.run_id)]
    if names or storage.exists(run.store.summary_path):
        yield "certificates and summary", partial(_certified, run, names)
    for name in ("locations", "witnesses", "attacks"):
        for path in data_files(run.out, name, run.run_id):
            yield path, partial(_made, path, made_by(name, path, run.run_id), proof)
    for path in storage.list_files(storage.join(run.out, "audit", f"run_id={run.run_id}")):
        yield path, partial(_made, path, f"patchcert audit --run-id {run.run_id}", proof)


def _made(path: str, command: str, proof: Proof) -> str:
    votes = made_from(path)
    if votes is None:
        return Caution(f"unverified: it does not say from which votes it is made; `{command}` does")
    if votes != proof.sha256:
        raise CheckError(f"made from other votes; run `{command}` again, or delete it")
    return "made from these votes"


def _certified(run: Run, names: Sequence[str]) -> str:
    """Compute every certificate again, and compare rows and figures with what is stored."""
    store, manifest = run.store, run.manifest
    again = f"run `patchcert certify --run-id {run.run_id}` again"
    redo = f"delete the file and {again}"
    summary = store.read_summary()
    if summary is None:
        raise CheckError(f"there are rows and no summary; {again}")
    questions, totals, parts = Claims.from_summary(summary), Totals(), parts_of(manifest)
    folders = datasets_of(store, questions)
    numbers = range(len(parts))
    expected = {
        storage.full_path(part_path(folder, part))
        for folder in folders.values()
        for part in numbers
    }
    stored = {path for name in names for path in data_files(run.out, name, run.run_id)}
    if expected != stored:
        path = min(expected ^ stored)
        what = "it is not there" if path in expected else "it is none of the run's parts"
        raise CheckError(f"{path}: {what}; {redo}")
    for part, units in enumerate(parts):
        tables: dict[str, list[pa.Table]] = {name: [] for name in folders}
        for scored in score_batches(store, manifest, questions, units):
            totals.add(scored.totals)
            for name in folders:
                tables[name].append(getattr(scored, name))
        for name, folder in folders.items():
            path = part_path(folder, part)
            rows = pq.read_table(io.BytesIO(storage.read_bytes(path)))
            if not _same(rows, pa.concat_tables(tables[name])):
                raise CheckError(f"{path}: its rows are not those of the votes; {redo}")
    bound = ("sha256", "votes_sha256")
    said = {name: value for name, value in summary.items() if name not in bound}
    if said != json.loads(json.dumps(totals.summary(manifest))):
        raise CheckError(f"{store.summary_path}: its figures are not those of the votes; {redo}")
    return "computed again from the votes, every row and figure is the same"


def _same(rows: pa.Table, wanted: pa.Table) -> bool:
    """Compare rows; columns that an earlier version did not write must have nothing to say."""
    later = [name for name in wanted.schema.names if name not in rows.schema.names]
    silent = all(wanted[name].null_count == wanted.num_rows for name in later)
    return silent and rows.equals(wanted.drop_columns(later))
