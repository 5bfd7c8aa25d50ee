"""The report as one HTML page: pictures inside it as data URIs, no script, nothing fetched.

Every text that is not ours (class names, file names, the title) goes through `html.escape`.
"""

import base64
import html
import io
import math

from PIL import Image

from .evaluation import METRICS
from .gallery import SCORE

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem;
  color: #1c232d; background: #fff }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem }
img { max-width: 100%; height: auto; display: block }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, .text { text-align: left; overflow-wrap: break-word; max-width: 20rem }
.bar { width: 30%; min-width: 4rem }
.bar div { background: #2f6fdb; height: .8rem; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
figure { margin: 1rem 0 1.5rem } figcaption { overflow-wrap: anywhere }
.pair { display: flex; flex-wrap: wrap; gap: .5rem }
.pair div { flex: 1 1 18rem; max-width: 30rem }
@media (max-width: 30rem) { th, td { padding: .25rem .3rem; font-size: .85rem } }
@media print { body { max-width: none; font-size: 11pt } figure, tr { break-inside: avoid }
  h2, h3 { break-after: avoid } .pair { flex-wrap: nowrap } .pair div { flex: 1 1 0 } }
"""

# What each kind of TIDE means, where b and f are its IoU thresholds 0.1 and 0.5.
MEANINGS = {
    "classification": "on an object (IoU from 0.5 up), but of another class",
    "localisation": "of the right class, but off the object (IoU from 0.1 to 0.5)",
    "both": "of another class and off the object",
    "duplicate": "on an object that a better detection has found already",
    "background": "near no object (IoU below 0.1)",
    "missed": "an object that no detection found, wrong class or place included",
}


def write_page(numbers: dict, figures: dict[str, bytes], gallery: dict[str, list]) -> str:
    """The page's text.

    Args:
        numbers: what report.json holds.
        figures: PNG files by name, "errors" and "precision_recall".
        gallery: for "worst" and "best", a list of (caption, name, objects drawn, detections drawn).
    """
    size = (
        f"{numbers['images']:,} images, {numbers['objects']:,} objects"
        f" ({numbers['crowd_regions']:,} crowd regions not counted),"
        f" {numbers['detections']:,} detections"
    )
    return html_page(
        numbers["title"],
        f"""<p>{size}. Box AP by pycocotools, percent.</p>
{_top(numbers)}
<h2>Where AP50 is lost</h2>
<p>Errors by kind, as TIDE (Bolya et al. 2020) defines them, over detections of all scores. The gain
is what AP50, now {_number(numbers["row"]["AP50"])}, would grow by if that kind alone were
corrected; the gains do not add up to 100.</p>
{_figure(figures["errors"], "bars: the AP50 gained by correcting each kind of error")}
{_errors(numbers["errors"])}
<h2>Precision over recall</h2>
<p>Thin lines are classes, the thick one is their mean; the area under it is AP50 and AP75.</p>
{_figure(figures["precision_recall"], "precision over recall at IoU 0.5 and 0.75")}
<h2>Classes</h2>
{_classes(numbers["classes"])}
<h2>Images</h2>
<p>Left or above the objects, right or below the detections with scores from {SCORE} up. Images are
ranked by F1 of those detections at IoU 0.5.</p>
<h3>The worst</h3>
{_gallery(gallery["worst"])}
<h3>The best</h3>
{_gallery(gallery["best"])}""",
    )


def html_page(title: str, body: str) -> str:
    """A page that begins with its title, in the report's style.

    Args:
        title: plain text.
        body: HTML.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{body}
</body>
</html>
"""


def _top(numbers: dict) -> str:
    rows = [["here", *(_number(numbers["row"][name]) for name in METRICS)]]
    if numbers["paper"]:
        rows.append(["paper", *(_number(numbers["paper"].get(name)) for name in METRICS)])
    return table(["", *METRICS], rows)


def _errors(errors: dict) -> str:
    rows = [
        [kind, f"{row['count']:,}", _number(row["gain"], sign="+"), MEANINGS[kind]]
        for kind, row in errors.items()
    ]
    return table(["kind", "count", "gain", "what it is"], rows, text=3)


def _classes(classes: list[dict]) -> str:
    bar = '<div style="width: {:.1f}%"></div>'
    body = "".join(
        f"<tr><th>{html.escape(row['name'])}</th><td>{row['objects']:,}</td>"
        + "".join(f"<td>{_number(row[name])}</td>" for name in ("AP", "AP50", "AP75"))
        + f'<td class="bar">{bar.format(row["AP"] or 0)}</td></tr>\n'
        for row in classes
        if row["objects"]
    )
    head = "".join(f"<th>{name}</th>" for name in ("class", "objects", "AP", "AP50", "AP75", ""))
    without = sum(not row["objects"] for row in classes)
    rest = f"<p>{without} more have no ground truth here.</p>" if without else ""
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>{rest}'


def _gallery(pictures: list) -> str:
    if not pictures:
        return "<p>None.</p>"
    return "\n".join(
        f'<figure><div class="pair"><div>{_image(truth, f"objects of {name}")}</div>'
        f"<div>{_image(found, f'detections of {name}')}</div></div>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, name, truth, found in pictures
    )


def table(head: list[str], rows: list[list[str]], text: int | None = None) -> str:
    """A table of numbers with names in its first column, and words in column `text`."""
    lines = []
    for row in (head, *rows):
        cells = ""
        for column, cell in enumerate(row):
            tag = "th" if row is head or column == 0 else "td"
            words = ' class="text"' if column == text else ""
            cells += f"<{tag}{words}>{html.escape(cell)}</{tag}>"
        lines.append(cells)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n{body}\n</table></div>'


def _figure(png: bytes, alt: str) -> str:
    return f"<figure>{_tag(png, 'png', alt)}</figure>"


def _image(image: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)  # a fifth of a PNG: the page stays below 10 MB
    return _tag(file.getvalue(), "jpeg", alt)


def _tag(content: bytes, kind: str, alt: str) -> str:
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    data = base64.b64encode(content).decode()
    source = f"data:image/{kind};base64,{data}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{html.escape(alt)}">'


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.1f}"
