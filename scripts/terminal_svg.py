#!/usr/bin/env python3
"""Draws captured terminal text as an SVG picture: terminal_svg.py TITLE < text > picture.svg"""
import html
import sys

lines = sys.stdin.read().rstrip("\n").split("\n")
width = max(len(line) for line in lines) * 7.85 + 40
height = len(lines) * 17 + 62
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">')
print(f'<rect width="100%" height="100%" rx="8" fill="#1d2430"/>')
for i, colour in enumerate(("#e0605e", "#e2b340", "#5fb663")):
    print(f'<circle cx="{20 + 18 * i}" cy="18" r="6" fill="{colour}"/>')
print(f'<text x="{width / 2:.0f}" y="23" text-anchor="middle" fill="#9aa5b5" font-family="sans-serif" font-size="13">{html.escape(sys.argv[1])}</text>')
for i, line in enumerate(lines):
    colour = "#8fc1ff" if line.startswith(("==", "$")) else "#ffd37a" if line.startswith(">") else "#dfe5ee"
    print(f'<text x="20" y="{56 + 17 * i}" xml:space="preserve" fill="{colour}" font-family="monospace" font-size="13">{html.escape(line)}</text>')
print("</svg>")
