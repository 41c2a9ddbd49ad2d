"""`rlhf validate`: data files, or all data of a recipe, against every check."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rlhf.cli.choices import FormatName, KindName, SetOption, ShapeName
from rlhf.errors import UsageError

if TYPE_CHECKING:
    from rlhf.data import Report
    from rlhf.data.survey import Survey
    from rlhf.recipe import Recipe, RecordKind

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH…|RECIPE", help="Data files or hub data sets; or one recipe.")
]
Kind = Annotated[KindName | None, typer.Option("--as", help="Which records the files hold.")]
FormatOption = Annotated[
    FormatName | None, typer.Option("--format", help="The files' format; by the suffix where left out.")
]
ShapeOption = Annotated[
    ShapeName | None,
    typer.Option("--shape", help="How the rows are laid out; found by the columns if left out."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=COLUMN", help="Which column holds a field (repeatable)."),
]
KeepExtra = Annotated[
    bool, typer.Option("--keep-extra", help="Keep columns that no field takes under metadata.")
]
Split = Annotated[
    str | None, typer.Option("--split", help="Split of a hub data set, or of a saved DatasetDict.")
]
Config = Annotated[str | None, typer.Option("--config", help="Configuration of a hub data set.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit of a hub data set.")]
Chat = Annotated[bool, typer.Option("--chat", help="Check that text rows can be wrapped as chat turns.")]
RulesOnly = Annotated[
    bool, typer.Option("--rules-only", help="Check syntax and the records' own rules alone.")
]
Errors = Annotated[
    list[str] | None,
    typer.Option("--error", metavar="CODE", help="Take this finding as an error (repeatable)."),
]
Warnings = Annotated[
    list[str] | None, typer.Option("--warning", metavar="CODE", help="Take it as a warning.")
]
Off = Annotated[list[str] | None, typer.Option("--off", metavar="CODE", help="Do not look for it.")]
Words = Annotated[
    str | None, typer.Option("--sensitive-words", metavar="FILE", help="Words to look for, one a line.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write the report to a file besides: a page for .html, else JSON."),
]
Quarantine = Annotated[
    Path | None,
    typer.Option("--quarantine", help="Write the faulty rows with their faults here (JSON Lines)."),
]
Clean = Annotated[
    Path | None, typer.Option("--clean", help="Write the records of all other rows here (JSON Lines).")
]
FaultyShare = Annotated[
    float,
    typer.Option("--max-faulty-share", min=0, max=0.999, help="Up to this share of faulty rows exit with 0."),
]


def validate(
    paths: Paths,
    kind: Kind = None,
    fmt: FormatOption = None,
    shape: ShapeOption = None,
    columns: Columns = None,
    keep_extra: KeepExtra = False,
    split: Split = None,
    config: Config = None,
    revision: Revision = None,
    chat: Chat = False,
    rules_only: RulesOnly = False,
    errors: Errors = None,
    warnings: Warnings = None,
    off: Off = None,
    sensitive_words: Words = None,
    as_json: AsJson = False,
    report: ReportFile = None,
    quarantine: Quarantine = None,
    clean: Clean = None,
    max_faulty_share: FaultyShare = 0.0,
    overrides: SetOption = None,
) -> None:
    """Name every invalid row with file, line, field, value and remedy; or check all data that a recipe needs."""
    from rlhf.data import report_of, separate

    severity = _severity(errors or [], warnings or [], off or [])
    _keep_apart(paths, [path for path in (report, quarantine, clean) if path is not None])
    if kind is None:
        recipe = _recipe(paths, severity, sensitive_words, overrides or [])
        surveys = _survey_recipe(recipe, rules_only)
    else:
        given: dict[str, Any] = {
            "format": fmt and fmt.value,
            "split": split,
            "config": config,
            "revision": revision,
            "shape": shape and shape.value,
            "columns": _mapping(columns or []),
            "on_error": "quarantine" if max_faulty_share else "fail",
            "max_faulty_share": max_faulty_share,
        }
        given |= {"extra": "metadata"} if keep_extra else {}  # left out, each shape has its own rule
        sources = [{"path": path, **given} for path in paths]
        checks = None if rules_only else {"severity": severity, "sensitive_words": sensitive_words}
        surveys = _survey_files(sources, kind.value, chat, checks)
    if quarantine or clean:
        if len(surveys) != 1:
            raise UsageError("--quarantine and --clean take one source", "Validate the files one by one.")
        separate(surveys[0], quarantine=quarantine, clean=clean)
    reports = [report_of(one) for one in surveys]
    _tell(reports, as_json, report)
    if any(one.refuses for one in reports):
        raise typer.Exit(1)


def _keep_apart(inputs: list[str], outputs: list[Path]) -> None:
    """Raise UsageError where an output would overwrite the data or another output."""
    taken = {Path(name).resolve(): name for name in inputs}
    for path in outputs:
        if path.resolve() in taken or any(
            Path(name).is_dir() and Path(name) in path.parents for name in inputs
        ):
            raise UsageError(f"{path} would overwrite what is read, or another output", "Name another file.")
        taken[path.resolve()] = str(path)


def _severity(errors: list[str], warnings: list[str], off: list[str]) -> dict[str, str]:
    """Code -> what its findings are.

    Raises:
        UsageError: no such code, or one that is always an error.
    """
    from rlhf.recipe.check_codes import GRADED

    given = {
        **dict.fromkeys(errors, "error"),
        **dict.fromkeys(warnings, "warning"),
        **dict.fromkeys(off, "off"),
    }
    if fixed := sorted(given.keys() - set(GRADED)):
        raise UsageError(
            f"no check whose severity can be set: {', '.join(fixed)}",
            "docs/data_checks.md lists the codes; what breaks a row is always an error.",
        )
    return given


def _mapping(columns: list[str]) -> dict[str, str]:
    """`--column prompt=question` as `{prompt: question}`."""
    for one in columns:
        if "=" not in one:
            raise UsageError(
                f"--column {one}: not of the form FIELD=COLUMN", "Write --column prompt=question."
            )
    return dict(one.split("=", 1) for one in columns)


def _recipe(paths: list[str], severity: dict[str, str], words: str | None, overrides: list[str]) -> "Recipe":
    from rlhf.recipe import load_recipe

    if len(paths) != 1 or Path(paths[0]).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"{' '.join(paths)}: which records do these files hold?",
            "Add --as sft, preference, prompt or rollout; or give one recipe (.yaml).",
        )
    levels = [f"data.checks.severity.{code}={level}" for code, level in severity.items()]
    listed = [] if words is None else [f"data.checks.sensitive_words={words}"]
    return load_recipe(paths[0], [*overrides, *levels, *listed])


def _survey_recipe(recipe: "Recipe", rules_only: bool) -> list["Survey"]:
    from rlhf.data import check_splits
    from rlhf.data.bars import data_bars
    from rlhf.pipeline.token_findings import add_token_findings

    stages, checks = recipe.stages(), None if rules_only else recipe.data.checks
    console = Console(stderr=True, highlight=False)
    with data_bars(console) as bar:
        surveys = check_splits(recipe.all_reads(stages), chat=recipe.data.chat, checks=checks, progress=bar)
        reason = "" if rules_only else add_token_findings(recipe, stages, surveys, progress=bar)
    if reason:
        console.print(Text(f"Checks with the tokenizer were left out: {reason}."))
    return list(surveys.values())


def _survey_files(
    sources: list[dict[str, Any]], kind: "RecordKind", chat: bool, checks: dict[str, Any] | None
) -> list["Survey"]:
    from rlhf.data.bars import data_bars
    from rlhf.data.survey import Job, survey
    from rlhf.recipe import DataSource
    from rlhf.recipe.checks import ChecksSection

    looked_for = None if checks is None else ChecksSection.model_validate(checks)
    with data_bars(Console(stderr=True)) as bar:
        return [
            survey(Job(DataSource.model_validate(source), kind, chat, looked_for), bar(source["path"]))
            for source in sources
        ]


def _tell(reports: Sequence["Report"], as_json: bool, path: Path | None) -> None:
    """Print the reports, and write them where asked for."""
    from rlhf.data import render_json, render_page, render_text
    from rlhf.durable import explain_write_errors

    content = json.dumps(render_json(reports), ensure_ascii=False, indent=1)
    if path is not None:
        is_page = path.suffix.lower() in (".html", ".htm")
        with explain_write_errors(path):
            path.write_text(render_page(reports) if is_page else content + "\n", encoding="utf-8")
    Console(highlight=False).print(Text(content if as_json else render_text(reports)), soft_wrap=True)
