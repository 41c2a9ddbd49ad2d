"""Whatever is done to a file's bytes, reading it ends, with rows and faults alone."""

import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rlhf.data.blocks import Block, BlockReader
from rlhf.data.fault import Fault
from rlhf.data.place import Row
from rlhf.recipe.check_codes import CHECKS
from rlhf.recipe.data import FileFormat

NUM_FILES = 150
ROWS = [
    {"prompt": f"Hé {number} “x” 😀", "completion": "Hi.\nok", "metadata": {"a": [1, None, {"b": "c"}]}}
    for number in range(12)
]
JSONL = "".join(json.dumps(row, ensure_ascii=row["prompt"][3] == "1") + "\n" for row in ROWS).encode()
CSV = ("prompt,completion\r\n" + "".join(f'"a ""q"" {n},\nx",b\r\n' for n in range(12))).encode()
TABLE = pa.table(
    {
        "prompt": [row["prompt"] for row in ROWS],
        "messages": [[{"role": "user", "content": "x" * number}] for number in range(12)],
        "source": pa.array(["a", "b"] * 6).dictionary_encode(),
        "when": pa.array([0] * 12, pa.timestamp("ns")),
    }
)
SPLINTERS = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"]",
    b"\\",
    b"\r",
    b"\n",
    b"9" * 5000,
    b"[" * 3000,
    b"\\ud800",
    b"NaN",
]


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer)
    return buffer.getvalue()


def arrow(is_stream: bool) -> bytes:
    buffer = io.BytesIO()
    make = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with make(buffer, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=5)
    return buffer.getvalue()


FILES: dict[str, tuple[FileFormat, bytes]] = {
    "x.jsonl": ("jsonl", JSONL),
    "x.json": ("json", json.dumps(ROWS, indent=1).encode()),
    "x.csv": ("csv", CSV),
    "x.tsv": ("tsv", CSV.replace(b",", b"\t")),
    "x.txt": ("text", "é\n\n".encode() * 9),
    "x.parquet": ("parquet", parquet()),
    "stream.arrow": ("arrow", arrow(is_stream=True)),
    "file.arrow": ("arrow", arrow(is_stream=False)),
    "x.jsonl.gz": ("jsonl", gzip.compress(JSONL, mtime=0)),
    "x.csv.zst": ("csv", zstandard.compress(CSV)),
}


def mutate(content: bytes, rng: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 12])):
        start = rng.randrange(len(raw) + 1)
        stop = start + rng.choice([0, 1, 8, 40])
        part = bytes(raw[start:stop])
        raw[start:stop] = rng.choice([b"", rng.randbytes(len(part)), part * 3, rng.choice(SPLINTERS)])
    return bytes(raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.1 else raw)


@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_gives_rows_and_faults_alone(tmp_path: Path, name: str) -> None:
    fmt, content = FILES[name]
    rng, path = random.Random(name), tmp_path / name
    num_faulty = 0
    for _ in range(NUM_FILES):
        path.write_bytes(mutate(content, rng))
        faults = [item for item in BlockReader(Block(path, fmt)) if not isinstance(item, Row)]
        assert all(
            isinstance(item, Fault) and item.code in CHECKS and item.path == str(path) for item in faults
        )
        num_faulty += bool(faults)
    assert num_faulty > NUM_FILES // 4


@pytest.mark.parametrize("name", FILES)
def test_the_file_before_mutation_has_no_fault(tmp_path: Path, name: str) -> None:
    fmt, content = FILES[name]
    (tmp_path / name).write_bytes(content)
    items = list(BlockReader(Block(tmp_path / name, fmt)))
    assert [item for item in items if isinstance(item, Fault)] == []
    assert len(items) == (9 if fmt == "text" else 12)
