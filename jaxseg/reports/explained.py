"""explanations.html: Seg-Grad-CAM maps of cases as pictures, with the figures of explanations.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from jaxseg.reports import page
from jaxseg.reports.cases.pictures import MEGABYTE, data_uri
from jaxseg.utils.files import write_atomic

FILE = "explanations.html"


class Explained(NamedTuple):
    """A row of explanations.csv and its picture: image, prediction and map side by side; None if the class is not predicted."""

    row: Mapping[str, Any]
    picture: Path | None


def write(folder: Path, found: Sequence[Explained], network: str, *, megabytes: float) -> Path:
    """Write the page, and return its path.

    Args:
      folder: the folder of the results.
      found: every class of every case.
      network: name of the network.
      megabytes: size of the pictures together; further ones are left out.
    """
    cards, total = [], 0
    for one in found:
        if one.picture is None:
            continue
        row = one.row
        share = f"{row['inside']:.3f} of the map lies inside the predicted region" if row["inside"] != "" else "the map is empty"
        words = f"{row['voxels']:,} voxels (or pixels) are predicted, slice {row['slice']} is shown; {share}"
        title = f"{row['case']}, {row['class']}"
        uri = data_uri(Image.open(one.picture).convert("RGB"), lossy=True)
        total += len(uri)
        if total > megabytes * MEGABYTE:
            cards.append("<p>Further pictures are in the folder gradcam.</p>")
            break
        alt = f"{title}: the image, the prediction, and the map over the image with the region's outline; {words}"
        picture = f'<img class="wide" src="{uri}" alt="{page.text(alt)}">'
        cards.append(f"<figure>{picture}<figcaption><b>{page.text(title)}</b><br>{page.text(words)}</figcaption></figure>")
    layer = next((one.row["layer"] for one in found), "")
    title = f"What {network} looks at"
    said = (
        f"<p>Seg-Grad-CAM of the layer {page.text(layer)}: bright where the image led the network to predict the region, whose "
        "outline is white. From left to right: the image, the prediction, the map.</p>"
    )
    parts = {"maps": ("Maps", said + "".join(cards)), "figures": ("Figures", page.table([one.row for one in found], "maps"))}
    body = [f"<header><h1>{page.text(title)}</h1></header>", page.navigation({key: words for key, (words, _) in parts.items()})]
    body += ["<main>", *(page.section(key, words, inside) for key, (words, inside) in parts.items()), "</main>"]
    write_atomic(folder / FILE, page.document(title, body))
    return folder / FILE
