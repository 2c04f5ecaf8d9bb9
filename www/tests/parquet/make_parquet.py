"""Writes small Parquet files in each compression, and their rows as pyarrow reads them, expected.json. Needs pyarrow."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
turn = pa.struct([("role", pa.string()), ("content", pa.string())])
table = pa.table(
    {
        "question": ["What?", "Où ça ?", None, "<script>alert(1)</script>"] * 5,
        "answer": ["This.", "Là 🐦", "=1+1", ""] * 5,
        "label": pa.array([1, 2, 3, 1 << 40] * 5, pa.int64()),
        "score": [0.5, None, 2.0, -1.25] * 5,
        "good": [True, False, None, True] * 5,
        "messages": pa.array([[{"role": "user", "content": "a\nb"}], [], None, [{"role": "x", "content": None}] * 2] * 5, pa.list_(turn)),
    }
)
for compression in ["none", "snappy", "gzip", "zstd"]:
    pq.write_table(table, HERE / f"{compression}.parquet", compression=compression, row_group_size=7)
pq.write_table(table, HERE / "plain.parquet", compression="snappy", use_dictionary=False, data_page_version="2.0")
rows = pq.read_table(HERE / "snappy.parquet").to_pylist()
(HERE / "expected.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n")
