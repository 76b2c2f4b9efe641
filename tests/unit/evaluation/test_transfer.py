"""The transfer table: how rows are counted, and what img2img starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline

from benchmarks.transfer import Bench, FromPictures, Starts, check_same_family
from benchmarks.transfer_table import Change, Place, choose_strength, transferred
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.embedded_prompts import Targets
from diffusers_erasure.evaluation.generate import Artist, Sampling
from diffusers_erasure.evaluation.prompt_sets import JudgeRole, PromptItem
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict

SAMPLING = Sampling(2, 3.0)
CHURCH = Targets(("church",), (), {"church": ()})
INK = Targets((), ("ink",), {"ink": ()})


def change(before: int, after: int, n: int = 20) -> Change:
    return Change(before=Proportion.of(before, n), after=Proportion.of(after, n))


def items(count: int, about: str = "castle") -> list[PromptItem]:
    return [PromptItem("a castle", 900 + seed, about, (about,), JudgeRole.CONCEPT) for seed in range(count)]


def silent(what: str, done: int, total: int) -> None:
    """A progress that nobody watches."""


def place(own: Change, kept: Change) -> Place:
    return Place(
        pipeline="base", own_name=own, kept=kept, kept_by_set={"neighbours": kept}, attacked={}, runs=()
    )


def test_sets_are_pooled_by_their_counts() -> None:
    found = Change.pooled([change(20, 10), change(8, 1, n=10)])
    assert found.before == Proportion.of(28, 30)
    assert found.after == Proportion.of(11, 30)


@pytest.mark.parametrize(
    ("own", "kept", "verdict"),
    [
        ((19, 0), (20, 16), Verdict.MEASURED),
        ((19, 0), (20, 15), Verdict.DEGENERATE),
        ((18, 0), (20, 20), Verdict.HARNESS_INVALID),
        ((20, 20), (20, 20), Verdict.MEASURED),
    ],
)
def test_a_row_counts_where_the_concept_was_there_and_the_rest_still_is(
    own: tuple[int, int], kept: tuple[int, int], verdict: Verdict
) -> None:
    assert place(change(*own), change(*kept)).verdict is verdict


def test_a_prompt_is_broken_elsewhere_by_its_plain_or_its_replayed_text() -> None:
    everywhere, of_broken = transferred([True, False, False, False], "0100", "1101")
    assert everywhere == Proportion.of(2, 4)
    assert of_broken == Proportion.of(2, 3)


def test_a_prompt_that_could_not_be_replayed_counts_for_the_attack() -> None:
    everywhere, of_broken = transferred([False, False], "F0", "00")
    assert everywhere == Proportion.of(1, 2)
    assert of_broken is None


def test_the_first_strength_that_shows_the_concept_is_taken() -> None:
    shares = {0.7: Proportion.of(9, 10), 0.8: Proportion.of(19, 20), 0.9: Proportion.of(20, 20)}
    assert choose_strength(shares) == 0.8
    assert choose_strength({0.7: Proportion.of(9, 10)}) is None


@pytest.mark.parametrize(("targets", "about"), [(CHURCH, "castle"), (INK, "poster")])
def test_start_pictures_show_neither_what_is_erased_nor_what_is_asked_for(
    targets: Targets, about: str, tiny_pipe: StableDiffusionPipeline
) -> None:
    starts = Starts(Artist(tiny_pipe, SAMPLING), targets)
    asked = items(400, about)
    prompts = [starts.prompt(item) for item in asked]
    assert len(set(prompts)) > 100
    assert prompts == [starts.prompt(item) for item in asked]
    assert not any(word in prompt for prompt in prompts for word in (*targets.synonyms, about))


def test_img2img_takes_the_start_picture_of_each_seed(tiny_pipe: StableDiffusionPipeline) -> None:
    starts = Starts(Artist(tiny_pipe, SAMPLING), CHURCH)
    asked = items(3)
    starts.gather(asked, silent)
    pipe = FromPictures(**tiny_pipe.components, requires_safety_checker=False).begin(starts, 0.5)
    artist = Artist(pipe, SAMPLING)
    together = artist.draw([item.prompt for item in asked], [item.seed for item in asked]).whole()
    alone = artist.draw([asked[2].prompt], [asked[2].seed]).whole()
    assert (together[2].int() - alone[0].int()).abs().max() <= 2
    starts.drawn[asked[2].seed] = 255 - starts.drawn[asked[2].seed]
    again = artist.draw([item.prompt for item in asked], [item.seed for item in asked]).whole()
    assert (again[:2].int() - together[:2].int()).abs().max() <= 2
    assert (again[2].int() - together[2].int()).abs().max() > 2


def test_kept_img2img_pictures_belong_to_their_strength(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    class Unerased(Bench):
        """A bench whose erasure changes nothing."""

        def erase(self, stock: Any) -> Any:
            return FromPictures(**stock.components, requires_safety_checker=False)

    parts: Any = ("", None, None, SAMPLING, 2, 2, tmp_path, tmp_path, silent)
    bench = Unerased(*parts)
    base = bench.pair("base", tiny_pipe)
    starts = Starts(base.artists[0], CHURCH)
    caches = [bench.img2img(base, starts, one).artists[0].cache for one in (0.5, 0.5, 0.9)]
    paths = [cache.path("a castle", 1) for cache in (*caches, base.artists[0].cache) if cache is not None]
    assert paths[0] == paths[1]
    assert len(set(paths)) == 3


def test_an_encoder_of_another_family_is_refused(make_tiny_pipe: Any) -> None:
    encoder = RobustEncoder.from_encoder(make_tiny_pipe(width=12).text_encoder)
    with pytest.raises(EvaluationError, match="width and vocabulary"):
        check_same_family(make_tiny_pipe(), encoder)
    check_same_family(make_tiny_pipe(width=12, seed=3), encoder)
