#!/usr/bin/env python3
"""Draws captured terminal text as an SVG picture: terminal_svg.py TITLE < text > picture.svg

Knows the colours of ANSI escape sequences (ESC [ number m) and no other ones.
"""
import html
import re
import sys

ESCAPE = re.compile("\x1b\\[([0-9]+)m")
COLORS = {0: "", 32: "#7fd88b", 33: "#e8c15a", 34: "#7aa7ff", 35: "#d48fe0", 36: "#6fd3d3"}
PLAIN = "#dfe5ee"


def spans(line: str, color: int) -> tuple:
    """The line's text in its colours as SVG, and the colour that goes on behind it."""
    parts = ESCAPE.split(line)  # text, number, text, number, ...
    shown = html.escape(parts[0]) if not color else f'<tspan fill="{COLORS[color]}">{html.escape(parts[0])}</tspan>'
    for number, text in zip(parts[1::2], parts[2::2]):
        color = int(number)
        shown += f'<tspan fill="{COLORS[color]}">{html.escape(text)}</tspan>' if color and text else html.escape(text)
    return shown, color


lines = sys.stdin.read().rstrip("\n").split("\n")
width = max(len(ESCAPE.sub("", line)) for line in lines) * 7.85 + 40
height = len(lines) * 17 + 62
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">')
print(f'<rect width="100%" height="100%" rx="8" fill="#1d2430"/>')
for i, colour in enumerate(("#e0605e", "#e2b340", "#5fb663")):
    print(f'<circle cx="{20 + 18 * i}" cy="18" r="6" fill="{colour}"/>')
print(f'<text x="{width / 2:.0f}" y="23" text-anchor="middle" fill="#9aa5b5" font-family="sans-serif" font-size="13">{html.escape(sys.argv[1])}</text>')
color = 0
for i, line in enumerate(lines):
    fill = "#8fc1ff" if line.startswith(("==", "$")) else "#ffd37a" if line.startswith(">") else PLAIN
    text, color = spans(line, color)
    print(f'<text x="20" y="{56 + 17 * i}" xml:space="preserve" fill="{fill}" font-family="monospace" font-size="13">{text}</text>')
print("</svg>")
