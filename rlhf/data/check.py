"""Sources against all checks: reports, and for a recipe's splits what only shows beside each other."""

from collections.abc import Callable, Sequence

from rlhf.data.across import leaks, stage_leaks
from rlhf.data.progress import Progress
from rlhf.data.report import Report
from rlhf.data.source import find_format, source_name
from rlhf.data.survey import Job, Survey, add_finding, survey
from rlhf.data.tally import MAX_FAULTS
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource, RecordKind
from rlhf.recipe.recipe import ReadSplit

DEFAULT_CHECKS = ChecksSection()


def check(
    source: DataSource,
    kind: RecordKind,
    *,
    chat: bool = False,
    checks: ChecksSection | None = DEFAULT_CHECKS,
    max_faults: int = MAX_FAULTS,
    progress: Progress | None = None,
) -> Report:
    """Read all of a source and report every finding.

    Args:
        source: where the rows come from.
        kind: which record they are.
        chat: text rows will be wrapped as chat turns; rows that cannot be are faults.
        checks: what is looked for; None: syntax and the records' own rules alone.
        max_faults: how many errors to keep in detail; of each code the first 10 are kept besides.
        progress: called now and then with the share that is done.
    """
    return report_of(survey(Job(source, kind, chat, checks, max_faults), progress))


def check_splits(
    reads: Sequence[ReadSplit],
    *,
    chat: bool = False,
    checks: ChecksSection | None = DEFAULT_CHECKS,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, Survey]:
    """Every split that a recipe reads, and the held-out rows that are trained on.

    Args:
        reads: the splits; of one that is taken out of another, that other one is read.
        chat, checks: see `check`.
        progress: gives what to call for the split of that key.

    Returns:
        Split -> what is found in it; what is mixed into it stands under `<split>.mix_in.<number>`.
    """
    surveys: dict[str, Survey] = {}
    for read in reads:
        mixed = {f"{read.key}.mix_in.{index}": one for index, one in enumerate(read.source.mix_in)}
        for key, source in {read.key: read.source, **mixed}.items() if read.part != "held_out" else ():
            surveys[key] = survey(_job(source, read.kind, chat, checks), progress and progress(key))
    for key, held in surveys.items():
        if _side(key) == "eval":
            _look_beside(key, held, surveys)
    return surveys


def _job(source: DataSource, kind: RecordKind, chat: bool, checks: ChecksSection | None) -> Job:
    """What a source's preparation leaves out and counts is no finding."""
    codes = source.prepare.codes
    if checks is not None and codes:
        checks = checks.model_copy(update={"severity": checks.severity | dict.fromkeys(codes, "off")})
    return Job(source, kind, chat, checks)


def _side(key: str) -> str:
    """`train` or `eval`, also of what is mixed in."""
    return key.split(".")[1]


def _look_beside(key: str, held: Survey, surveys: dict[str, Survey]) -> None:
    group = key.partition(".")[0]
    for other, trained in surveys.items():
        if _side(other) != "train" or trained.across is None or held.across is None:
            continue
        look = leaks if other.partition(".")[0] == group else stage_leaks
        for finding in look(trained.across, held.across):
            add_finding(held, finding, beside=trained)


def report_of(found: Survey) -> Report:
    """What a survey found, ready to be shown."""
    job = found.job
    return Report(
        path=source_name(job.source),
        kind=job.kind,
        format=find_format(job.source),
        num_rows=found.num_rows,
        num_faults=found.found.num_errors,
        counts=dict(found.found.counts),
        faults=found.found.kept,
        sha256=found.sha256,
        shape=job.shape if found.num_rows else None,
        num_records=found.num_records,
        num_faulty_rows=found.num_faulty_rows,
        num_lasting=found.num_lasting,
        num_warnings=found.found.num_warnings,
        lengths={name: _trim(counts) for name, counts in found.lengths.items()},
        facts={} if found.across is None else found.across.facts(),
        worst=found.worst.offenders,
        max_faulty_share=job.source.max_faulty_share if job.source.on_error == "quarantine" else 0.0,
    )


def _trim(counts: list[int]) -> list[int]:
    """Without the empty classes at the end."""
    size = max((index + 1 for index, count in enumerate(counts) if count), default=0)
    return counts[:size]
