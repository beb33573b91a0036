"""The main text of a web page, by trafilatura, guarded against pages that are made to hurt.

Comes in: a page's markup. Goes out: its main text, one paragraph a line, without navigation, comments and advertisements.
Must never happen: time that grows faster than the page. libxml2 needs over ten seconds for one tag with 100,000 attributes,
trafilatura as long for 200,000 links, and what lies deeper than 256 tags is lost without a word; such pages go to
the scanner of `html`, which reads any page once from left to right.
"""

import re

from puna.corpus import html

# Bounds for a page without its scripts, far above what pages have (the most in 207 gold pages: 3,514 tags, one tag of 2,230
# breaks, 5 quoted ends) and low enough that the worst page within all of them takes seconds.
_TAGS = 30_000
_SQUARED_BREAKS = 10**8  # libxml2's time for a tag grows with the square of its attributes
_QUOTED_ENDS = 20
_CHARACTERS = 8 << 20
_SHORT = 200  # characters of a tag whose attributes need no count

# Scripts of linked data stay: trafilatura takes the article from there where the page itself gives none.
_OPAQUE = re.compile(
    r"<!--|-->|<(/?)(script(?![^>]{0,200}application/ld\+json)|style|template)(?=[\s/>])", re.IGNORECASE
)
_DATA_URI = re.compile(r"data:[a-zA-Z]+/[a-zA-Z0-9.+-]+;base64,[A-Za-z0-9+/=]*")
_TAG_BEGINS = re.compile(r"<[a-zA-Z/!?]")
_BREAK = re.compile(r"[\s/\"']")
_QUOTED_END = re.compile(r"=\s*(?:\"[^\">]*>|'[^'>]*>)")
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def main_text(markup: str, url: str = "") -> str:
    """The main text of one page, one paragraph a line; "" where there is none. Pure: the same page, the same text.

    `markup` is decoded text of any length and any form. The extractor is trafilatura with `favor_recall` and without
    comments (Barbaresi 2021, https://aclanthology.org/2021.acl-demo.15), which bench/extraction.py compares.
    """
    page = _NOT_IN_XML.sub(" ", _without_opaque(markup))
    if not _is_tame(page):
        return html.main_text(page)
    from lxml import etree
    from lxml import html as lxml_html

    parser = lxml_html.HTMLParser(
        collect_ids=False, default_doctype=False, encoding="utf-8", remove_comments=True, remove_pis=True
    )
    try:
        tree = lxml_html.document_fromstring(page.encode(), parser=parser)
    except etree.LxmlError:  # nothing that could be a page
        return html.main_text(page)
    if any(error.type == etree.ErrorTypes.ERR_RESOURCE_LIMIT for error in parser.error_log):
        return html.main_text(page)  # it stopped where it was too deep
    import trafilatura

    return trafilatura.extract(tree, url=url or None, include_comments=False, favor_recall=True) or ""


def _without_opaque(markup: str) -> str:
    """The page without comments, scripts, styles, templates and embedded data; one that is never closed takes the rest."""
    kept: list[str] = []
    place, inside = 0, ""
    for found in _OPAQUE.finditer(markup):
        mark, name = found.group().lower(), (found.group(2) or "").lower()
        if not inside and (mark == "<!--" or (name and not found.group(1))):
            kept.append(markup[place : found.start()])
            inside = name or "-->"
        elif inside and (mark == inside or (name == inside and found.group(1))):
            end = found.end() if mark == "-->" else markup.find(">", found.end()) + 1
            place, inside = end or len(markup), ""
    if not inside:
        kept.append(markup[place:])
    return _DATA_URI.sub("", " ".join(kept))


def _is_tame(page: str) -> bool:
    """Whether parser and extractor are safe on a page: every quantity that they are slow in is bounded.

    A tag ends at the first ">" that is not quoted, so between two ">" it has no more attributes than breaks; the ends that
    may be quoted are counted for the whole page.
    """
    if len(page) > _CHARACTERS or page.count("<") > _TAGS:
        return False
    squares = 0
    for piece in page.split(">"):
        if len(piece) > _SHORT and (tag := _TAG_BEGINS.search(piece)):
            squares += sum(1 for _ in _BREAK.finditer(piece, tag.start())) ** 2
            if squares > _SQUARED_BREAKS:
                return False
    return sum(1 for _ in _QUOTED_END.finditer(page)) <= _QUOTED_ENDS
