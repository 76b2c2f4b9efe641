"""Pairs that a user wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import PromptPair, read_pairs


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_two_columns_are_enough(tmp_path: Path) -> None:
    path = write(
        tmp_path, '\ufeffmalicious,safe\r\n"man\'s  best friend, asleep","a cat, asleep"\r\n\r\nwoof,\r\n'
    )
    assert read_pairs(path) == (
        PromptPair("man's best friend, asleep", "a cat, asleep", "", ""),
        PromptPair("woof", "", "", ""),
    )


def test_words_say_where_the_concept_stands(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "safe_word,note,safe,word,malicious\ncat,x,A cat sleeps,Best friend,my best friend "
        "sleeps\n,y,somebody sleeps,hound,a hound sleeps\n,,somebody eats,,who barks eats\n",
    )
    assert read_pairs(path) == (
        PromptPair("my best friend sleeps", "A cat sleeps", "Best friend", "cat"),
        PromptPair("a hound sleeps", "somebody sleeps", "hound", ""),
        PromptPair("who barks eats", "somebody eats", "", ""),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no pair; expected a heading malicious,safe,word,safe_word and at least one row"),
        ("malicious,safe\n\n", "holds no pair"),
        ("\nbad,good\na,b\n", "line 2 .* has the columns 'bad', 'good'; expected 'malicious' and 'safe'"),
        ("malicious,target\n", "line 1 .* has the columns 'malicious', 'target'"),
        ("malicious,safe\na,b\n ,c\n", "line 3 .* has no malicious prompt"),
        ("malicious,safe\na,b\nA  dog,a dog\n", "line 3 .* has 'A dog' on both sides"),
        ("malicious,safe,word\na dog,a cat,do\n", "line 2 .* has the word 'do' for 'a dog'"),
        ("malicious,safe,word\ntwo dogs,a cat,dog\n", "line 2 .* has the word 'dog' for 'two dogs'"),
        (
            "malicious,safe,word,safe_word\na dog,a cat,dog,cow\n",
            "line 2 .* has the word 'cow' for 'a cat'; expected one that stands there",
        ),
        ("malicious,safe,safe_word\na dog,a cat,cat\n", "line 2 .* the safe word 'cat' but no word"),
        ("malicious,safe\na dog, asleep,a cat\n", "line 2 .* has 3 cells; expected 2 \\(malicious, safe\\)"),
        ('malicious,safe\n"a\nb",c\n"d\n', "line 4 .* is not csv"),
        ("malicious,safe\na caf\u00e9,b\n".encode("latin-1"), "cannot be read .*expected a file in UTF-8"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the file of pairs .*none\.csv cannot be read"):
        read_pairs(tmp_path / "none.csv")
