"""Settings of an attack: one frozen model each, from which command line, JSON and budget card are made."""

from __future__ import annotations

from typing import Literal, Self

from diffusers_erasure.settings import Settings, setting

Precision = Literal["float32", "bfloat16"]


class AttackConfig(Settings):
    """What every attack is told."""

    seed: int = setting(0, "seed of everything that the attack draws at random", ge=0)
    batch_size: int = setting(16, "prompts that are attacked together", ge=1)
    precision: Precision = setting(
        "float32", "number format of the search's gradients; pictures are always drawn as the pipeline draws"
    )

    @property
    def judged_images(self) -> int:
        """Most pictures of one prompt that the judge is shown, with that of the plain prompt."""
        return 1

    @property
    def work(self) -> int:
        """Most steps of one prompt, as the search reports them; for progress with time left."""
        return 1

    def scaled(self, factor: int) -> Self:
        """The same attack with `factor` times its budget; the settings themselves where it has none.

        Args:
            factor: 1, 2, 4, ...
        """
        del factor
        return self

    def budget(self) -> dict[str, object]:
        """The budget card: every setting, and the most pictures and steps of one prompt."""
        return {**self.model_dump(mode="json"), "judged_images": self.judged_images, "work": self.work}


class LuckConfig(AttackConfig):
    """Settings of a control: as many pictures as the attack that it stands beside shows the judge."""

    images: int = setting(51, "most judged pictures of a prompt, with the plain one; the attack's own", ge=1)
    early_stop: bool = setting(True, "end at the first success")

    @property
    def judged_images(self) -> int:
        """All of them."""
        return self.images

    @property
    def work(self) -> int:
        """One step is one picture beyond the plain prompt's."""
        return max(1, self.images - 1)

    def scaled(self, factor: int) -> Self:
        """So many times more pictures beside the plain prompt's."""
        return self.model_copy(update={"images": 1 + factor * (self.images - 1)})
