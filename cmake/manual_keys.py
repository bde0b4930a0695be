#!/usr/bin/env python3
"""Writes the keys of mailferry.yaml(5) from the rows of src/config/keys.c.

Usage: manual_keys.py [--check] MAILFERRY. What "mailferry --explain all" prints
becomes the .It entries of the page; sections, examples and the order of the
entries stay as they are, and an entry for a new key stands behind the one
before it in the rows. --check writes nothing and fails if the page differs.

In the rows' text `X` is a literal, or a key if there is one of that name."""

import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / \
    "docs" / "mailferry.yaml.5"
ENTRY = re.compile(r"^\.It Ic (\S+) Pq .*\n(?:(?!\.It Ic |\.El\n|\.Sh ).*\n)*",
                   re.M)
RANGE = re.compile(r"^an integer.* from (\S+) to (\S+)$")
PIECE = re.compile(r"([(]?)`([^`]+)`(\S*)|(\S+)")


def rows(mailferry):
    """(path, {field: value}, help) of every key that has a value."""
    told = subprocess.run([mailferry, "--explain", "all"], check=True,
                          text=True, stdout=subprocess.PIPE).stdout
    for block in told.split("\n\n"):
        path, *lines = block.rstrip("\n").split("\n")
        fields, text = {}, []
        for line in lines:
            name, colon, value = line.strip().partition(":")
            if colon and not text and name in ("type", "expected", "default",
                                               "keys"):
                fields[name] = value.strip()
            elif line == "  required":
                fields["required"] = ""
            else:
                text.append(line.strip())
        if not fields["type"].startswith("section"):
            yield path, fields, " ".join(text)


def literal(text):
    """An argument of a macro that means only itself."""
    words = text.replace("\\", "\\e").split(" ")
    return " ".join("\\&" + w if w in (".", "?", ":", "(", ")", ",", ";", "|")
                    or w[0] in ".'" else w for w in words)


def lines(text, names):
    """One sentence begins a line, and a literal has one of its own."""
    line = ""
    for before, quoted, behind, word in PIECE.findall(text):
        if word:
            line += (" " if line else "") + word
            if re.search(r"[A-Za-z0-9)'][.]$", word):
                yield line
                line = ""
            elif len(line) > 70:
                yield line
                line = ""
            continue
        if line:
            yield line
            line = ""
        macro = "Ic" if quoted in names else "Ql"
        if before:
            macro = f"Pq {macro}"
            behind = behind.replace(")", "", 1)
        stops = " ".join(behind)
        yield f".{macro} {literal(quoted)} {stops}".rstrip()
    if line:
        yield line


def entry(path, fields, text, names):
    of = ""
    if "required" in fields:
        of = " , required"
    elif "default" in fields:
        of = " , default " + fields["default"]
        # mdoc(7) takes a colon at the end for its own.
        of += "\\&" if of.endswith(":") else ""
    limits = RANGE.match(fields["expected"])
    out = [f".It Ic {path} Pq {fields['type']}{of}"]
    out += [re.sub(r"^(['.](?!(?:Ql|Ic|Pq) ))", r"\\&\1", line)
            for line in lines(text, names)]
    if limits:
        out.append(f"Range: {limits[1]} to {limits[2]}.")
    return "\n".join(out) + "\n"


def written(page, mailferry):
    made = list(rows(mailferry))
    names = {path for path, _, _ in made}
    names |= {path.split(".")[-1] for path in names if "." in path}
    names -= {"default", "host", "user", "port", "path", "url", "query",
              "tls", "socket", "key", "cert", "auth", "protocol", "source"}
    texts = {path: entry(path, *rest, names) for path, *rest in made}
    there = [m[1] for m in ENTRY.finditer(page)]
    before = None
    for path in texts:
        if path not in there and before:
            anchor = next(m for m in ENTRY.finditer(page) if m[1] == before)
            page = (page[:anchor.end()] + f".It Ic {path} Pq new\n" +
                    page[anchor.end():])
        before = path
    return ENTRY.sub(lambda m: texts.get(m[1], ""), page)


def main(*args):
    check = args[0] == "--check"
    page = PAGE.read_text("utf-8")
    made = written(page, args[-1])
    if not check:
        PAGE.write_text(made, "utf-8")
    elif made != page:
        print(f"{PAGE.name} is not what its rows say; "
              f"run cmake/manual_keys.py {args[-1]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
