"""The papers behind methods and attacks, as BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
        key: Its BibTeX key.
        title: Its title.
        authors: Authors, with "and" between them.
        year: Year of publication.
        venue: Conference.
        arxiv: Its number there.
    """

    key: str
    title: str
    authors: str
    year: int
    venue: str
    arxiv: str

    @property
    def bibtex(self) -> str:
        """The entry."""
        return (
            f"@inproceedings{{{self.key},\n"
            f"  title = {{{{{self.title}}}}},\n"
            f"  author = {{{self.authors}}},\n"
            f"  booktitle = {{{self.venue}}},\n"
            f"  year = {{{self.year}}},\n"
            f"  eprint = {{{self.arxiv}}},\n"
            f"  archivePrefix = {{arXiv}}\n"
            f"}}"
        )


_NEURIPS, _ICLR = (
    "Advances in Neural Information Processing Systems",
    "International Conference on Learning Representations",
)
METHODS = {
    "advunlearn": Paper(
        "zhang2024advunlearn",
        "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models",
        "Zhang, Yimeng and Chen, Xin and Jia, Jinghan and Zhang, Yihua and Fan, Chongyu and Liu, Jiancheng "
        "and Hong, Mingyi and Ding, Ke and Liu, Sijia",
        2024,
        _NEURIPS,
        "2405.15234",
    ),
    "trce": Paper(
        "chen2025trce",
        "TRCE: Towards Reliable Malicious Concept Erasure in Text-to-Image Diffusion Models",
        "Chen, Ruidong and Guo, Honglin and Wang, Lanjun and Zhang, Chenyu and Nie, Weizhi and Liu, An-An",
        2025,
        "IEEE/CVF International Conference on Computer Vision",
        "2503.07389",
    ),
    "aegis": Paper(
        "li2026aegis",
        "AEGIS: Adversarial Target-Guided Retention-Data-Free Robust Concept Erasure from Diffusion Models",
        "Li, Fengpeng and Li, Kemou and Wang, Qizhou and Han, Bo and Zhou, Jiantao",
        2026,
        _ICLR,
        "2602.06771",
    ),
    "esd": Paper(
        "gandikota2023erasing",
        "Erasing Concepts from Diffusion Models",
        "Gandikota, Rohit and Materzynska, Joanna and Fiotto-Kaufman, Jaden and Bau, David",
        2023,
        "IEEE/CVF International Conference on Computer Vision",
        "2303.07345",
    ),
    "uce": Paper(
        "gandikota2024unified",
        "Unified Concept Editing in Diffusion Models",
        "Gandikota, Rohit and Orgad, Hadas and Belinkov, Yonatan and Materzynska, Joanna and Bau, David",
        2024,
        "IEEE/CVF Winter Conference on Applications of Computer Vision",
        "2308.14761",
    ),
}
ATTACKS = {
    "unlearndiffatk": Paper(
        "zhang2024generate",
        "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe "
        "Images ... For Now",
        "Zhang, Yimeng and Jia, Jinghan and Chen, Xin and Chen, Aochuan and Zhang, Yihua and Liu, Jiancheng "
        "and Ding, Ke and Liu, Sijia",
        2024,
        "European Conference on Computer Vision",
        "2310.11868",
    ),
    "p4d": Paper(
        "chin2024prompting4debugging",
        "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts",
        "Chin, Zhi-Yi and Jiang, Chieh-Ming and Huang, Ching-Chun and Chen, Pin-Yu and Chiu, Wei-Chen",
        2024,
        "International Conference on Machine Learning",
        "2309.06135",
    ),
    "ring_a_bell": Paper(
        "tsai2024ringabell",
        "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?",
        "Tsai, Yu-Lin and Hsu, Chia-Yi and Xie, Chulin and Lin, Chih-Hsun and Chen, Jia-You and Li, Bo and "
        "Chen, Pin-Yu and Yu, Chia-Mu and Huang, Chun-Ying",
        2024,
        _ICLR,
        "2310.10012",
    ),
    "concept_inversion": Paper(
        "pham2024circumventing",
        "Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
        "Pham, Minh and Marshall, Kelly O. and Cohen, Niv and Mittal, Govind and Hegde, Chinmay",
        2024,
        _ICLR,
        "2308.01508",
    ),
}


def cited(methods: Iterable[str], attacks: Iterable[str]) -> tuple[tuple[Paper, ...], tuple[str, ...]]:
    """The papers of methods and attacks, each once, and the methods for which none is known.

    Args:
        methods: Names as manifests give them; `a+b` is two methods.
        attacks: Names as reports give them; an attack without a paper is left out.
    """
    names = [part for method in methods for part in method.split("+")]
    known = [METHODS[name] for name in names if name in METHODS]
    used = [ATTACKS[name] for name in attacks if name in ATTACKS]
    without = tuple(dict.fromkeys(name for name in names if name not in METHODS))
    return tuple(dict.fromkeys((*known, *used))), without
