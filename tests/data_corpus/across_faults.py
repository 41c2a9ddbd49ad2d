"""Faults that only rows beside each other show."""

import random

from data_corpus.clean_rows import CLEAN, Clean, Values
from data_corpus.planted import ALL, AT, Planted

FIRST = 4
"""Index of the earlier row that the changed one repeats or contradicts."""
_LONG = 1
"""Index of a row whose texts have dozens of words."""
_WORDS = [
    "amber",
    "basil",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "joist",
    "knoll",
    "larch",
    "maple",
    "nacre",
    "ochre",
    "plume",
    "quilt",
    "ridge",
    "slate",
    "thorn",
    "umber",
    "vault",
    "wharf",
    "xylem",
    "yeast",
    "zesty",
    "birch",
    "coral",
    "dunes",
    "elder",
    "flint",
    "glade",
    "heron",
    "iris",
    "jetty",
    "kelp",
    "loam",
    "moss",
    "nettle",
    "otter",
    "pine",
    "quartz",
    "reed",
    "sedge",
    "tarn",
    "upland",
    "vale",
    "willow",
    "yarrow",
]


def _salad(seed: int, length: int) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=length)).capitalize() + "."


def _pairs(num_longer: int) -> tuple[Values, ...]:
    """100 pairs; in the first `num_longer` the chosen answer is the longer one."""
    return tuple(
        {
            "prompt": _salad(3 * index, 8),
            "chosen": _salad(3 * index + 1, 30 if index < num_longer else 12),
            "rejected": _salad(3 * index + 2, 12 if index < num_longer else 30),
        }
        for index in range(100)
    )


def _labelled(share_of_second: float) -> tuple[Values, ...]:
    """Two sources of 100 rows; half of the first has the label 1, and a share of the second."""
    return tuple(
        {
            "prompt": _salad(1000 + 2 * index, 8),
            "completion": _salad(1001 + 2 * index, 15),
            "metadata": {
                "source": "desk" if index < 100 else "shop",
                "label": int(index % 100 < (50 if index < 100 else 100 * share_of_second)),
            },
        }
        for index in range(200)
    )


CLEAN["pairs-balanced"] = Clean("preference", _pairs(50))
CLEAN["labels-balanced"] = Clean("sft", _labelled(0.5))


def _changes(base: str, rows: tuple[Values, ...]) -> dict[int, Values]:
    return {index: row for index, row in enumerate(rows) if row != CLEAN[base].rows[index]}


def _nearly(text: object) -> str:
    assert isinstance(text, str)
    return text.removesuffix(".") + " indeed."


_pair = CLEAN["preference"].rows[FIRST]
_long = {name: " ".join([str(CLEAN["sft-lines"].rows[i]["text"]) for i in (0, 1, 11)]) for name in ("text",)}
_RUSSIAN = "Весь зал молчал два часа, и никто не смотрел на часы: такого фильма здесь давно не видели."

ACROSS: tuple[Planted, ...] = (
    *(
        Planted(
            "duplicate",
            base,
            {AT: dict(CLEAN[base].rows[FIRST])},
            None,
            like=FIRST,
            formats=ALL if base == "sft-lines" else CLEAN[base].formats,
        )
        for base in (
            "sft",
            "sft-lines",
            "sft-messages",
            "preference",
            "preference-implicit",
            "prompt",
            "alpaca",
        )
    ),
    Planted(
        "near_duplicate",
        "sft",
        {AT: {"completion": _nearly(CLEAN["sft"].rows[_LONG]["completion"])}},
        None,
        like=_LONG,
    ),
    Planted(
        "near_duplicate",
        "sft-lines",
        {FIRST: _long, AT: {"text": _nearly(_long["text"])}},
        None,
        at=(AT,),
        formats=ALL,
    ),
    Planted(
        "contradiction",
        "preference",
        {AT: {"chosen": _pair["rejected"], "rejected": _pair["chosen"]}},
        None,
        like=FIRST,
        at=(FIRST, AT),
    ),
    Planted(
        "preference_cycle",
        "preference",
        {
            5: {"prompt": "Which film is it?", "chosen": "Ran, by Kurosawa.", "rejected": "Heat, by Mann."},
            11: {"prompt": "Which film is it?", "chosen": "Heat, by Mann.", "rejected": "Alien, by Scott."},
            AT: {
                "prompt": "Which film is it?",
                "chosen": "Alien, by Scott.",
                "rejected": "Ran, by Kurosawa.",
            },
        },
        None,
    ),
    Planted("length_bias", "pairs-balanced", _changes("pairs-balanced", _pairs(95)), None, whole="source"),
    Planted(
        "label_imbalance",
        "labels-balanced",
        _changes("labels-balanced", _labelled(1.0)),
        "metadata",
        whole="source",
    ),
    Planted("mixed_languages", "sft-lines", {AT: {"text": _RUSSIAN}}, None, formats=ALL),
    Planted("mixed_languages", "prompt", {AT: {"prompt": _RUSSIAN}}, None),
    Planted(
        "mixed_languages",
        "preference",
        {AT: {"prompt": _RUSSIAN, "chosen": _RUSSIAN[:40], "rejected": _RUSSIAN[40:]}},
        None,
    ),
)
"""Faults over several rows."""
