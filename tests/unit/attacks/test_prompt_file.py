"""Prompt files: the forms that published lists have, and errors that name file and row."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_erasure.attacks.prompt_file import FilePrompt, read_prompt_file
from diffusers_erasure.errors import ConfigError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_has_one_prompt_per_line(tmp_path: Path) -> None:
    path = write(tmp_path, "list.txt", "a church\n\n  a dog, #1 \r\n")
    assert read_prompt_file(path) == (FilePrompt("a church", 1), FilePrompt("a dog, #1", 3))


@pytest.mark.parametrize(
    "heading",
    [
        "prompt,seed,guidance_scale",
        "Prompt,evaluation_seed,evaluation_guidance",
        "prompt,sd_seed,sd_guidance_scale",
    ],
)
def test_csv_columns_go_by_the_names_of_published_lists(tmp_path: Path, heading: str) -> None:
    path = write(tmp_path, "list.csv", f'\ufeff{heading}\n"a church, old",7,7.5\na dog,8.0,\n')
    assert read_prompt_file(path) == (FilePrompt("a church, old", 2, 7, 7.5), FilePrompt("a dog", 3, 8, None))


def test_rows_count_lines_where_a_prompt_has_several(tmp_path: Path) -> None:
    path = write(tmp_path, "list.csv", 'case_number,prompt\n0,"two\nlines"\n\n1,next\n')
    assert [(one.prompt, one.row) for one in read_prompt_file(path)] == [("two\nlines", 2), ("next", 5)]


def test_jsonl_has_objects_or_strings(tmp_path: Path) -> None:
    path = write(tmp_path, "list.jsonl", '{"prompt": "a church", "seed": 3, "guidance": 4}\n"a dog"\n')
    assert read_prompt_file(path) == (FilePrompt("a church", 1, 3, 4.0), FilePrompt("a dog", 2))


def test_large_seeds_stay_exact(tmp_path: Path) -> None:
    path = write(tmp_path, "list.csv", "prompt,seed\na church,9007199254740993\n")
    assert read_prompt_file(path)[0].seed == 9007199254740993


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", "words,seed\na,1\n", "row 1: .*'words', 'seed'.*'prompt'"),
        ("list.csv", "prompt,seed\na,1\nb\n", "row 3: the row has 1 cells; expected 2"),
        ("list.csv", "prompt,seed\na,x\n", "row 2: the row has the seed 'x'"),
        ("list.csv", "prompt,seed\na,1.5\n", "row 2: the row has the seed 1.5"),
        ("list.csv", "prompt,seed\na,-1\n", "row 2: the row has the seed -1"),
        ("list.csv", f"prompt,seed\na,{2**63}\n", "row 2: the row has the seed"),
        ("list.csv", "prompt,guidance\na,nan\n", "row 2: the row has the guidance scale 'nan'"),
        ("list.csv", "prompt,guidance\na,-2\n", "row 2: the row has the guidance scale -2"),
        ("list.csv", "prompt,seed\n ,1\n", "row 2: the row has the prompt ' '"),
        ("list.csv", 'prompt\n"a\n', "row 2: the row is not csv"),
        ("list.jsonl", '"a"\n{"prompt": \n', "row 2: the row is not JSON"),
        ("list.jsonl", '"a"\n[1]\n', r"row 2: the row is '\[1\]'"),
        ("list.jsonl", '{"prompt": 3}\n', "row 1: the row has the prompt 3"),
        ("list.jsonl", '{"prompt": "a", "seed": true}\n', "row 1: the row has the seed True"),
        ("list.txt", "\n \n", "holds no prompt"),
        ("list.txt", b"\xff\xfe", "cannot be read"),
        ("list.json", "[]", "ends in '.json'; expected .csv, .jsonl or .txt"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_row(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompt_file(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.csv cannot be read"):
        read_prompt_file(tmp_path / "nothing.csv")
