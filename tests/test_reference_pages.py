"""docs/networks.md, docs/definitions.md and the README's table of networks are written from the library's docstrings and tables.

Run as a program this file writes them anew: `python tests/test_reference_pages.py`.
"""

import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxseg.augment import TRANSFORMS
from jaxseg.losses import TERMS
from jaxseg.metrics import calibration, counts, lesions, surface
from jaxseg.models import functional, registry, summary

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"
NOTE = "Written from the docstrings of the library by `python tests/test_reference_pages.py`; a test compares."
SIDES = {2: 256, 3: 64}  # of the images to which the page's figures refer
TITLES = {
    "basicunet": "BasicUNet",
    "dual_branch": "Dual-branch networks",
    "dynunet": "DynUNet",
    "effisegnet": "EffiSegNet",
    "hdbet": "HD-BET's U-Net",
    "linknet3d": "LinkNet for volumes",
    "mednext": "MedNeXt",
    "mobile_unetr": "MobileUNETR",
    "mobile_unetr3d": "MobileUNETR for volumes",
    "monai_unet": "MONAI's UNet",
    "nnunet": "nnU-Net",
    "planes": "Planes of a volume",
    "pspnet": "PSPNet",
    "resunetpp": "ResUNet++",
    "segformer": "SegFormer",
    "segnext": "SegNeXt",
    "segresnet": "SegResNet",
    "swin_unetr": "Swin UNETR",
    "unet": "U-Net",
    "unet2d": "U-Net, BraTS slices",
    "unet3d": "U-Net for volumes",
    "unet3p": "U-Net 3+",
    "unetr": "UNETR",
}
SOURCES = {  # names of key mappings -> whose files they read
    "official": "its authors",
    "ich": "the haemorrhage project",
    "hszhao": "hszhao/semseg",
    "scoliosis": "the scoliosis project",
    "monai": "MONAI",
    "monai_residual": "MONAI",
    "transformers": "transformers",
    "nnunet": "nnU-Net",
    "hdbet": "HD-BET",
    "deepbet": "deepbet",
}
METRICS = (
    counts.dice,
    counts.iou,
    counts.precision,
    counts.recall,
    counts.f1,
    counts.specificity,
    surface.hd95,
    surface.assd,
    surface.nsd,
)


def markdown(docstring: str) -> str:
    """A docstring of Args, Returns and Raises as Markdown."""
    lines, section = [], ""
    for line in inspect.cleandoc(docstring).splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Attributes):", line)
        if heading:
            section = heading[1]
            lines += ["", f"*{section}*", ""]
        elif section and line.startswith("  ") and not line.startswith("   "):
            name, colon, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}" if colon else f"- {line.strip()}")
        elif line and not line.startswith(" "):
            if section:
                lines.append("")
            section = ""
            lines.append(line)
        else:
            lines.append(f"  {line.strip()}" if section else line)
    return "\n".join(lines).strip()


class Figures(NamedTuple):
    """What the page states of a network, in its words: parameters, GMAC and MiB kept for the backward pass, "" if it cannot."""

    parameters: str
    gmac: str
    kept: str


def networks(figures: dict[str, Figures]) -> str:
    """docs/networks.md with these figures."""
    out = [
        "# Networks",
        "",
        textwrap.fill(
            f"{len(registry.list_models())} named networks. `--config.model.name=NAME` chooses one for a training, "
            "`jaxseg.create_model(NAME)` builds one in Python, `jaxseg zoo` lists them. Names that end in `_test` are tiny ones "
            "for tests.",
            128,
        ),
        "",
        *(
            textwrap.fill(f"- {line}", 128, subsequent_indent="  ")
            for line in (
                "**axes**: 2 for images, 3 for volumes.",
                "**channels, classes**: those that a network takes when nothing else is said, which your data replace; its "
                "**parameters** are counted for them. Fields of a variant are changed with `--config.model.options`.",
                f"**GMAC**: 10^9 multiply-accumulates for one image of {SIDES[2]} x {SIDES[2]} pixels, or {SIDES[3]}^3 voxels "
                "(UNETR: of the one size that it takes).",
                "**kept MiB**: what a training step in float32 keeps of that image from the forward for the backward pass, "
                "traced for a CPU. `jaxseg zoo --measure unet3d_s` compiles a step at any size, and measures memory and time.",
                "**Reads weights of**: whose PyTorch files `--config.model.init=FILE` takes, without PyTorch. Files that "
                "jaxseg wrote are read for every network.",
            )
        ),
        "",
        "```console",
        "$ jaxseg zoo unet3p_bridge",
        "network family axes channels classes parameters",
        f"unet3p_bridge unet3p 2 4 4 {figures['unet3p_bridge'].parameters}",
        "```",
        "",
        NOTE,
        "",
    ]
    for family in registry.FAMILIES:
        module = importlib.import_module(f"jaxseg.models.{family}")
        source = inspect.getmodule(next(iter(module.VARIANTS.values())).network)
        text = inspect.getdoc(source) or ""
        out += [f"## {TITLES[family]}", "", text, ""]
        out += [f"Reads weights of: {theirs}.", ""] if (theirs := sources(module)) else []
        out += ["| name | axes | channels | classes | parameters | GMAC | kept MiB |", "|---|---|---|---|---|---|---|"]
        out += [
            f"| `{name}` | {' or '.join(map(str, v.ranks))} | {v.in_channels} | {v.num_classes} | {' | '.join(figures[name])} |"
            for name, v in sorted(module.VARIANTS.items())
        ]
        out.append("")
    return "\n".join(out)


def sources(module) -> str:
    """Whose files the networks of a family read."""
    names = (re.sub(r"_\d+$", "", m.name) for m in getattr(module, "KEY_MAPPINGS", ()))
    return ", ".join(dict.fromkeys(SOURCES[name] for name in names))


def families(figures: dict[str, Figures]) -> str:
    """The README's table of families; networks for tests alone are left out."""
    rows = ["| family | networks | axes | parameters | reads weights of |", "|---|---|---|---|---|"]
    for family in sorted(registry.FAMILIES, key=lambda family: TITLES[family].lower()):
        module = importlib.import_module(f"jaxseg.models.{family}")
        known = {name: v for name, v in module.VARIANTS.items() if "_test" not in name}
        sizes = sorted(int(figures[name].parameters.replace(",", "")) / 1e6 for name in known)
        axes = " or ".join(map(str, sorted({rank for v in known.values() for rank in v.ranks})))
        size = " to ".join(dict.fromkeys((f"{sizes[0]:.1f}", f"{sizes[-1]:.1f}"))) + " M"
        names = ", ".join(f"`{name}`" for name in sorted(known)[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
        rows.append(f"| {TITLES[family]} | {names} | {axes} | {size} | {sources(module)} |")
    return "\n".join(rows) + "\n"


def readme(text: str, figures: dict[str, Figures]) -> str:
    """README.md with its table of families."""
    begin, end = "<!-- networks -->\n", "<!-- /networks -->"
    return text.partition(begin)[0] + begin + families(figures) + end + text.partition(end)[2]


def definitions() -> str:
    """docs/definitions.md."""
    out = ["# Losses, augmentation, scores", "", NOTE, ""]
    half = "import numpy as np, jaxseg; print(jaxseg.dice(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])))"
    out += ["All of them are functions of arrays:", "", "```console", f'$ python -c "{half}"', "0.6666666666666666", "```", ""]
    out += ["## Losses", "", "Terms of `--config.loss.terms=\"(('dice', 1.0), ...)\"`, options in `loss.options`.", ""]
    for name, term in TERMS.items():
        out += [f"### {name}", "", markdown(inspect.getdoc(term)), ""]
    out += ["## Augmentation", "", "Transforms of `train.augment`, on the device, in the order given.", ""]
    for name, entry in sorted(TRANSFORMS.items()):
        out += [f"### {name}", "", markdown(inspect.getdoc(entry.make)), ""]
    out += ["## Scores", "", textwrap.dedent(inspect.getdoc(counts)), ""]
    for function in METRICS:
        out += [f"### {function.__name__}", "", markdown(inspect.getdoc(function)), ""]
    for module in (surface, lesions, calibration):
        out += [f"### Of {module.__name__}", "", markdown(inspect.getdoc(module)), ""]
    return "\n".join(out)


def counted(name: str) -> Figures:
    variant = registry.variants()[name]
    sides = getattr(registry.create_model(name, abstract=True), "image_size", [SIDES[variant.ranks[0]]] * variant.ranks[0])
    shape = (1, *sides, variant.in_channels)
    macs = summary.summarize(name, shape).macs / 1e9
    return Figures(count(name), rounded(macs), rounded(summary.kept_for_backward(name, shape) / 2**20))


def rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def count(name: str) -> str:
    return f"{functional.parameter_count(registry.create_model(name, abstract=True)):,}"


def written() -> dict[str, Figures]:
    """Name -> figures as the page states them."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| (\S*) \| (\S*) \|$", (DOCS / "networks.md").read_text(), re.MULTILINE)
    return {name: Figures(*figures) for name, *figures in rows}


def test_the_page_of_networks_is_that_of_the_registry():
    assert (DOCS / "networks.md").read_text() == networks(written()), "python tests/test_reference_pages.py writes it anew"


def test_the_readme_lists_the_families_of_the_registry():
    assert README.read_text() == readme(README.read_text(), written()), "python tests/test_reference_pages.py writes it anew"


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_the_page_counts_parameters_as_the_library_does(family):
    """The smallest of each family; tests/models counts all of them."""
    names = importlib.import_module(f"jaxseg.models.{family}").VARIANTS
    smallest = min(names, key=lambda name: int(written()[name].parameters.replace(",", "")))
    assert written()[smallest].parameters == count(smallest)


@pytest.mark.parametrize("name", ["unet_test", "unet3d_test", "segformer_test"])
def test_the_page_counts_work_and_memory_as_the_library_does(name):
    there, here = written()[name], counted(name)
    assert there[:2] == here[:2] and float(there.kept) == pytest.approx(float(here.kept), rel=0.3)  # jax's versions differ in it


def test_the_page_of_definitions_is_that_of_the_docstrings():
    assert (DOCS / "definitions.md").read_text() == definitions(), "python tests/test_reference_pages.py writes it anew"


if __name__ == "__main__":
    (DOCS / "networks.md").write_text(networks({name: counted(name) for name in registry.list_models()}))
    (DOCS / "definitions.md").write_text(definitions())
    README.write_text(readme(README.read_text(), written()))
