"""Readers that turn one file of documentation into a list of its paragraphs.

A paragraph is what the file's format says is running text: code, tables, headings, terms of
definition lists and navigation are left out here, by their markup. Whether a paragraph is prose is
judged in prose.py, by its words.
"""
import html.parser
import re
import unicodedata


def decode(data: bytes) -> str:
    """UTF-8 where it is; otherwise Windows-1252, the superset of Latin-1 that old files are in."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


# ---------------------------------------------------------------------------------------- HTML

INLINE = {"a", "abbr", "acronym", "b", "bdi", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark",
          "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
SKIPPED_TAGS = {"aside", "button", "caption", "dt", "figcaption", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head",
                "math", "nav", "pre", "script", "select", "style", "svg", "table", "textarea", "title"}
SKIPPED_CLASSES = {"admonition-title", "attribution", "book-navigation", "caption", "contents", "cmdsynopsis", "footer",
                   "footnote-reference", "funcsynopsis", "headerlink", "highlight", "index", "indextable",
                   "label", "legalnotice", "line-block", "linenos", "literallayout", "math", "navfooter", "navheader",
                   "page-links", "programlisting", "refnamediv", "refsynopsisdiv", "rubric", "screen", "simplelist",
                   "synopsis", "title", "titlepage", "toc", "toctree-wrapper", "verseblock", "viewcode-link"}
RAISED = "\ue000"  # stands for <sup>; of Unicode's private use area, so in no text


class _HtmlParagraphs(html.parser.HTMLParser):
    """Collects the text between block elements, inside the element whose `attribute` has the word `value`."""

    def __init__(self, attribute: str, value: str):
        super().__init__(convert_charrefs=True)
        self.attribute, self.value = attribute, value
        self.paragraphs: list[str] = []
        self.pieces: list[str] = []
        # A part is left by counting the tags of its own name: old HTML leaves others unclosed.
        self.inside = ("", 0)  # the main element: its tag, and how many of that name are open
        self.skipped = ("", 0)  # likewise the outermost element that is left out
        self.admonition = False  # AsciiDoc lays its notes out as tables

    def flush(self):
        text = "".join(self.pieces)
        self.pieces.clear()
        if text.strip():
            self.paragraphs.append(text)

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            if tag == "br" and not self.skipped[0]:
                self.pieces.append(" ")
            return
        attributes = dict(attributes)
        if not self.inside[0]:
            if self.value in (attributes.get(self.attribute) or "").split():
                self.inside = (tag, 1)
            return
        if tag == self.inside[0]:
            self.inside = (tag, self.inside[1] + 1)
        if self.skipped[0]:
            if tag == self.skipped[0]:
                self.skipped = (tag, self.skipped[1] + 1)
            return
        classes = set((attributes.get("class") or "").split())
        if tag not in INLINE:
            self.flush()
        if tag == "div":
            self.admonition = "admonitionblock" in classes
        laid_out = tag == "table" and self.admonition
        footnote = tag == "aside" and "footnote" in classes
        if (tag in SKIPPED_TAGS and not laid_out and not footnote) or classes & SKIPPED_CLASSES or (
                tag == "td" and "icon" in classes):
            self.skipped = (tag, 1)
        elif tag == "sup":
            self.pieces.append(RAISED)

    def handle_startendtag(self, tag, attributes):
        if tag not in VOID and tag not in INLINE and self.inside[0] and not self.skipped[0]:
            self.flush()

    def handle_endtag(self, tag):
        if not self.inside[0]:
            return
        if self.skipped[0]:
            if tag == self.skipped[0]:
                self.skipped = (tag, self.skipped[1] - 1) if self.skipped[1] > 1 else ("", 0)
        elif tag not in INLINE:
            self.flush()
        if tag == self.inside[0]:
            self.inside = (tag, self.inside[1] - 1) if self.inside[1] > 1 else ("", 0)

    def handle_data(self, data):
        if self.inside[0] and not self.skipped[0]:
            self.pieces.append(data)


def html_paragraphs(text: str, attribute: str, value: str) -> list[str]:
    parser = _HtmlParagraphs(attribute, value)
    parser.feed(text)
    parser.close()
    parser.flush()
    # A footnote's mark goes, also where only its place is left; an exponent gets the sign that stands for it in plain text.
    return [re.sub(RAISED + r"\s*(\[\w+\]|(?!\w|-\w))", "", p).replace(RAISED, "^") for p in parser.paragraphs]


# ----------------------------------------------------------------------------------------- POD

POD_ENTITIES = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/", "lchevron": "«", "rchevron": "»"}


def _pod_entity(name: str) -> str:
    if name in POD_ENTITIES:
        return POD_ENTITIES[name]
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", name):
        return chr(int(name, 8 if name.startswith("0") and name.isdigit() else 0))
    return html.unescape(f"&{name};")


def _pod_link(text: str) -> str:
    """What perldoc shows for L<text>: the words before a bar, a URL, or the names of page and section."""
    if "|" in text and not re.match(r"\w+://", text):
        return text.split("|", 1)[0]
    if re.match(r"\w+:[^:\s]", text):
        return text
    page, _, section = text.partition("/")
    section = section.strip('"')
    if not section:
        return page
    return f'"{section}" in {page}' if page else f'"{section}"'


def pod_inline(text: str) -> str:
    """Text with its formatting codes, X<...> and X<< ... >>, replaced by what they show."""
    out = [("", "", [])]  # for every open code: its letter, its closing brackets, what it holds so far
    at = 0
    for match in re.finditer(r"([A-Z])(<(?:<+(?=\s))?)|(\s*)(>+)", text):
        if match.start() < at:
            continue
        out[-1][2].append(text[at:match.start()])
        at = match.end()
        if match[1]:
            out.append((match[1], ">" * len(match[2]), []))
            continue
        # A run of closing brackets may close several codes, or be only text.
        space, run = match[3], match[4]
        while run:
            closing = out[-1][1]
            if not closing or len(run) < len(closing) or (len(closing) > 1 and not space):
                break
            letter, _, pieces = out.pop()
            inner = "".join(pieces) + (space if len(closing) == 1 else "")
            if len(closing) > 1:
                inner = inner.strip()
            run, space = run[len(closing):], ""
            out[-1][2].append(_pod_entity(inner) if letter == "E" else _pod_link(inner) if letter == "L" else
                              "" if letter in "XZ" else inner)
        out[-1][2].append(space + run)
    out[-1][2].append(text[at:])
    return "".join("".join(pieces) for _, _, pieces in out)


def pod_paragraphs(text: str) -> list[str]:
    paragraphs, ignored, inside = [], 0, False
    for block in re.split(r"\n[ \t\r]*\n", text.replace("\r\n", "\n")):
        block = block.lstrip("\n")
        if block.startswith("="):
            command = block.split(None, 1)[0]
            inside = command != "=cut"
            ignored += (command == "=begin") - (command == "=end" and ignored > 0)
        elif inside and not ignored and block.strip() and not block[0].isspace():
            paragraphs.append(pod_inline(block))
    return paragraphs


# --------------------------------------------------------------------------- man pages of Pod::Man

MAN_STRINGS = {"Aq": "'", 'L"': '"', 'R"': '"', "C`": "", "C'": "", "--": "--", "PI": "pi", "C+": "C++"}
MAN_CHARACTERS = {"em": "--", "en": "-", "bu": "", "aq": "'", "dq": '"', "co": "©", "rg": "®", "lq": '"', "rq": '"', "oq": "'",
                  "cq": "'", "ga": "`", "ha": "^", "ti": "~", "mu": "x", "rs": "\\", "hy": "-", "ss": "ß"}
MAN_ACCENTS = {"'": "\u0301", "`": "\u0300", ":": "\u0308", "^": "\u0302", "~": "\u0303", ",": "\u0327", "v": "\u030c",
               "o": "\u030a"}


def man_inline(text: str) -> str:
    def escape(match):
        what = match[0]
        if what.startswith("\\*("):
            return MAN_STRINGS.get(what[3:], "")
        if what.startswith("\\*"):
            return MAN_ACCENTS.get(what[2:], "")
        if what.startswith("\\("):
            return MAN_CHARACTERS.get(what[2:], "")
        return {"\\-": "-", "\\e": "\\", "\\ ": " ", "\\~": " ", "\\\\": "\\"}.get(what, "")
    text = re.sub(r"\\\*\(..|\\\*.|\\\(..|\\f\(..|\\f.|\\s[-+]?\d|\\[hv]'[^']*'|\\.", escape, text)
    return unicodedata.normalize("NFC", text)


def man_paragraphs(text: str) -> list[str]:
    paragraphs, lines, verbatim = [], [], False
    started = False  # the preamble defines macros, up to the first heading
    for line in text.split("\n"):
        if line[:1] in ".'" and line:
            macro = line[1:].split(None, 1)[0] if line[1:].strip() else ""
            if macro == "IX":
                continue
            started |= macro == "SH"
            verbatim = macro == "Vb" or (verbatim and macro != "Ve")
            if lines:
                paragraphs.append(man_inline("\n".join(lines)))
                lines = []
        elif started and not verbatim and line.strip():
            lines.append(line)
    if lines:
        paragraphs.append(man_inline("\n".join(lines)))
    return paragraphs
