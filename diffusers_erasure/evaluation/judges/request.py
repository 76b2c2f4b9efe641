"""How a judge is asked for in one word: `family:location@revision#label,label,option=value`.

    embedded                                  the panel of the embedded pipeline
    embedded#church                           the same; "church" is what counts
    nudenet#threshold=0.45                    the nudity detector with another threshold
    image-classifier:microsoft/resnet-50#church
    image-classifier:./wikiart-vit#vincent-van-gogh,top=3
    clip:openai/clip-vit-base-patch32@3d74acf#church,against=house,against=tower

Only the family must be there. A location is a folder or a Hub id; the revision belongs to a Hub id. Labels
are what counts as showing the concept, for whoever asks one question about a picture, as attacks do; an
option may be given several times.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from diffusers_erasure.errors import ConfigError

GRAMMAR = "family:location@revision#label,label,option=value"


@dataclass(frozen=True)
class JudgeRequest:
    """A judge that was asked for.

    Attributes:
        family: Which kind of judge.
        location: Folder or Hub id of its weights; "" for judges that bring theirs.
        revision: Branch, tag or commit of a Hub id; None for the present one.
        labels: What counts as showing the concept; empty if it was not said.
        options: Further settings, each with all of its values.
        names: What will be asked about, told by the asker; only judges without labels of their own need it.
    """

    family: str
    location: str = ""
    revision: str | None = None
    labels: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def check(self, *, location: bool, options: Collection[str] = ()) -> None:
        """Refuse what the family cannot use, and the lack of what it needs.

        Args:
            location: Whether the family needs a location, or has none.
            options: The options that it knows.
        """
        if location and not self.location:
            raise ConfigError(
                f"the judge {self.family!r} was named without its weights; expected a folder or Hub id; "
                f"write {self.family}:path/or/id"
            )
        if not location and (self.location or self.revision):
            raise ConfigError(
                f"the judge {self.family!r} was given the location {self.location!r}; it brings its own "
                "weights; leave the location out"
            )
        for name in self.options:
            if name not in options:
                near = get_close_matches(name, options, n=1)
                raise ConfigError(
                    f"the judge {self.family!r} has no option {name!r}; it knows "
                    f"{', '.join(options) or 'none'}; "
                    + (f"did you mean {near[0]!r}?" if near else "leave it out")
                )

    def text(self, option: str, default: str) -> str:
        """The only value of an option."""
        values = self.options.get(option, (default,))
        if len(values) > 1:
            raise ConfigError(
                f"the option {option!r} of judge {self.family!r} was given {len(values)} times; expected "
                "once; keep one of them"
            )
        return values[0]

    def number(self, option: str, default: float, *, low: float, high: float) -> float:
        """The only value of an option, as a number within bounds."""
        text = self.text(option, str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ConfigError(
                f"the judge {self.family!r} was given {option}={text}; expected a number from {low:g} to "
                f"{high:g}; change it or leave it out for {default:g}"
            )
        return value


def parse_judge(text: str) -> JudgeRequest:
    """Read `family:location@revision#label,option=value`.

    Raises:
        ConfigError: The text has no family.
    """
    where, hash_sign, fragment = text.rpartition("#")
    if not hash_sign:
        where, fragment = text, ""
    family, _, location = where.partition(":")
    if not family.strip():
        raise ConfigError(f"the judge {text!r} names no family; expected {GRAMMAR}; name the family first")
    location, revision = _split_revision(location.strip())
    labels: list[str] = []
    options: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (item.strip() for item in fragment.split(","))):
        name, equals, value = part.partition("=")
        if equals:
            options[name.strip()] = (*options.get(name.strip(), ()), value.strip())
        else:
            labels.append(part)
    return JudgeRequest(family.strip(), location, revision, tuple(labels), options)


def _split_revision(location: str) -> tuple[str, str | None]:
    if "@" not in location or Path(location).expanduser().exists():
        return location, None
    where, _, revision = location.rpartition("@")
    return where, revision or None
