"""Writes the Parquet files beside it: pip install pyarrow pandas, then python make.py."""

import datetime
import pathlib

import pandas
import pyarrow
import pyarrow.parquet

here = pathlib.Path(__file__).parent
pairs = [(f"Question {i}: wie heißt der Leuchtturm?\nAnswer:", f" Licht {i} – “Nord”.") for i in range(1, 6)]

# Snappy, three row groups, columns beside the text of many types.
table = pyarrow.table({
    "prompt": [p for p, _ in pairs],
    "completion": [c for _, c in pairs],
    "n": pyarrow.array([1, None, 3, 4, 5], pyarrow.int32()),
    "score": pyarrow.array([0.1, 0.25, None, 1e300, -1.0], pyarrow.float64()),
    "low": pyarrow.array([0.1, 0.2, 0.3, 0.4, 0.5], pyarrow.float32()),
    "good": [True, False, None, True, True],
    "tags": [["a", "b"], [], None, ["c", None], ["d"]],
    "raw": pyarrow.array([p.encode() for p, _ in pairs], pyarrow.binary()),
    "day": [datetime.date(2026, 11, d) for d in range(1, 6)],
})
pyarrow.parquet.write_table(table, here / "rows.parquet", row_group_size=2, compression="snappy")

# pandas, gzip, a list of structs, and the index column that pandas adds.
turn = lambda role, content: {"role": role, "content": content}
chats = [
    [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello.")],
    [turn("user", "2 + 2?"), turn("assistant", "4"), turn("user", "And é?"), turn("assistant", "é")],
]
pandas.DataFrame({"messages": chats}, index=["x", "y"]).to_parquet(here / "chat.parquet", compression="gzip")

# Zstandard, as polars writes by default, and a column that no text can be made of.
table = pyarrow.table({"text": ["one", "two", "three"], "image": [b"\xff\xd8", b"\xff\xd9", b"\x00"]})
pyarrow.parquet.write_table(table.select(["text"]), here / "zstd.parquet", compression="zstd")
pyarrow.parquet.write_table(table, here / "image.parquet")
