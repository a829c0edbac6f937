"""Images of the page in rows: photograph, maps, seeds, estimated mask, prediction, truth, errors."""

from __future__ import annotations

from collections.abc import Sequence

from stages.report.page.markup import Markup, join, tag
from stages.report.page.shown_images import COLUMNS, Group, ImageRow, ShownImages, Tile
from stages.report.page.thumbnails import ERROR_COLOURS, ERROR_NAMES

FEW = 4  # columns: such rows fit beside each other


def image_section(images: ShownImages) -> Markup:
    parts = [tag("p", line, class_="missing") for line in images.missing]
    if images.groups:
        legend = [_key(name, colour) for name, colour in images.legend]
        parts.append(tag("ul", legend, class_="keys palette", aria_label="Colours of the classes"))
    if images.has_errors:
        errors = [_key(name, ERROR_COLOURS[value]) for value, name in ERROR_NAMES.items()]
        parts.append(tag("ul", tag("li", "Errors:"), errors, class_="keys palette", aria_label="Colours of errors"))
    return join([*parts, *map(group_of_images, images.groups)])


def _key(name: str, colour: tuple[int, int, int]) -> Markup:
    return tag("li", tag("span", class_="chip", style=f"background:rgb{colour}".replace(" ", "")), name, class_="key")


def group_of_images(group: Group) -> Markup:
    columns = [c for c in COLUMNS if any(tile.column == c for row in group.rows for tile in row.tiles)]
    few = len(columns) <= FEW
    rows = tag("div", [_row(row, columns) for row in group.rows], class_="image-rows few" if few else "image-rows")
    note = tag("p", group.note, class_="faint")
    return tag("section", tag("h3", group.title), note, rows, id=f"images-{group.key}", class_="group")


def _row(row: ImageRow, columns: Sequence[str]) -> Markup:
    """The tiles of an image, each below those of its column."""
    labels = "" if row.labels is None else ", ".join(row.labels) or "no class"
    heading = [
        tag("h4", row.image_id),
        tag("span", f"IoU {100 * row.iou:.1f} %", class_="value") if row.iou is not None else None,
        tag("span", row.about) if row.about else None,
        tag("span", labels, class_="faint"),
    ]
    there = {tile.column: tile for tile in row.tiles}
    tiles = [_tile(row, there[c]) if c in there else tag("span", class_="gap", aria_hidden="true") for c in columns]
    style = f"--columns:{len(columns)}"
    return tag(
        "div", tag("div", heading, class_="heading"), tag("div", tiles, class_="tiles", style=style), class_="image-row"
    )


def _tile(row: ImageRow, tile: Tile) -> Markup:
    named = f"{tile.column}: {tile.words}" if tile.words else tile.column
    caption = tag("figcaption", named, title=tile.artifact or None)
    if tile.thumbnail is None:
        return tag("figure", tag("p", tile.problem, class_="missing"), caption)
    of = f" of {tile.artifact}" if tile.artifact else ""
    image = tag(
        "img",
        src=tile.thumbnail.uri,
        alt=f"{row.image_id}: {tile.column}{of}" + (f", {tile.words}" if tile.words else ""),
        width=tile.thumbnail.width,
        height=tile.thumbnail.height,
        loading="lazy",
        decoding="async",
    )
    return tag("figure", tag("button", image, type="button", class_="enlarge"), caption)
