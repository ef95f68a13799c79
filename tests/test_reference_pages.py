"""docs/networks.md, docs/definitions.md and the README's table of networks are written from the library's docstrings and tables.

Run as a program this file writes them anew: `python tests/test_reference_pages.py`.
"""

import dataclasses
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


SCORED = (
    "$ python - <<'END'",
    "> import numpy as np, jaxseg",
    "> truth, found = np.zeros((2, 8, 8), bool)",
    "> truth[2:6, 2:6], found[2:6, 3:7] = True, True  # the same square, a pixel to the right",
    "> print(jaxseg.dice(found, truth), jaxseg.hd95(found, truth, spacing=(1.0, 2.0)), 'mm')",
    "> END",
    "0.75 2.0 mm",
)
SYMBOLS = (
    "Terms with their weights, and options of each:",
    "",
    "```text",
    """--config.loss.terms="(('dice', 1.0), ('focal', 1.0))" --config.loss.options="{'focal': {'gamma': 1.5}}\"""",
    "```",
    "",
    "In the formulas z are logits, p = softmax(z) or sigmoid(z), t is 1 where the truth has the class and 0 elsewhere; sums are",
    "over the voxels of a sample. Options that several terms have:",
    "",
    "- `background`: with softmax, class 0 counts too.",
    "- `batch`: sums are over all samples of the batch.",
    "- `smooth_nr`, `smooth_dr`: added to numerator and denominator.",
    '- `activation`: "softmax" or "sigmoid"; "auto" takes sigmoid for one class and for regions, else softmax.',
)


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


def options(given: dict) -> list[str]:
    """A line that lists options with their defaults."""
    shown = ", ".join(f"`{name}`" if value is dataclasses.MISSING else f"`{name}={value!r}`" for name, value in given.items())
    return [f"Options: {shown}.", ""] if shown else []


def of_term(term) -> dict:
    """Option of a loss -> its default."""
    found = inspect.signature(term).parameters.values()
    given = ("weight", "annotated", "distance_maps")  # by the training step
    return {p.name: p.default for p in found if p.kind == p.KEYWORD_ONLY and p.name not in given}


def of_transform(entry) -> dict:
    """Option of a transform -> its default, or dataclasses.MISSING."""
    fields = (f for f in dataclasses.fields(entry.make) if f.name in entry.options())
    return {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields}


def definitions() -> str:
    """docs/definitions.md."""
    out = ["# Losses, augmentation, scores", "", NOTE, ""]
    out += ["All of them are functions of arrays:", "", "```console", *SCORED, "```", ""]
    out += ["## Losses", "", *SYMBOLS, ""]
    for name, term in TERMS.items():
        out += [f"### {name}", "", markdown(inspect.getdoc(term)), "", *options(of_term(term))]
    out += ["## Augmentation", "", "Transforms on the device, in the order given; each sample draws for itself:", "", "```text"]
    out += ["""--config.train.augment="(('hflip', 0.5, {}), ('rotate', 0.3, {'degrees': (-15.0, 15.0)}))\"""", "```", ""]
    out += [
        "An entry is (name, probability, options); an option without a value must be given. U(a) is a number drawn",
        "evenly from the range a.",
        "",
    ]
    for name, entry in sorted(TRANSFORMS.items()):
        out += [f"### {name}", "", markdown(inspect.getdoc(entry.make)), "", *options(of_transform(entry))]
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
