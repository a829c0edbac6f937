"""What a review of the data advises: the class that needs masks, the images to label next, the masks to look at."""

from __future__ import annotations

from stages.report.page.advice import Advice
from stages.report.page.image_section import group_of_images
from stages.report.page.markup import Markup, join, tag
from stages.report.page.shown_images import COUNT

_HEAD = (("class", "label"), ("masks trained on", None), ("IoU where not trained, %", None))


def review_section(advice: Advice) -> Markup:
    review = advice.review
    parts = [tag("p", f"More masks of {review.help_most} would help most.")] if review.help_most else []
    head = [tag("th", name, scope="col", class_=place) for name, place in _HEAD]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row", class_="label"),
            tag("td", f"{one.masks:,}"),
            tag("td", "-" if one.iou is None else f"{100 * one.iou:.1f}"),
        )
        for name, one in review.classes.items()
    ]
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    parts.append(tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Masks of each class"))
    more = [
        f"{len(named):,} {what} are listed in review.json of {advice.artifact}."
        for named, what in ((review.next, "images to label"), (review.doubtful, "masks that look wrong"))
        if len(named) > COUNT
    ]
    groups = [group_of_images(group) for group in advice.groups]
    return join([*parts, *groups, tag("p", " ".join(more), class_="faint") if more else None])
