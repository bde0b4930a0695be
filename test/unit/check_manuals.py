#!/usr/bin/env python3
"""The manuals are clean, and their examples are true: mandoc has nothing to say,
pages of ours that they name exist, and mailferry takes the configurations that
mailferry.yaml(5) shows.

Usage: check_manuals.py MAILFERRY [MANDOC]. A section's example is a part of a
configuration, so that all of them are joined; those in EXAMPLES are put in
front of what they leave out."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs"
# What mandoc says of the machine it runs on, not of the page.
ELSEWHERE = re.compile(r"referenced manual not found|outdated mandoc\.db")
SECTION = re.compile(r"^\.Sh (.*)\n", re.M)
EXAMPLE = re.compile(r"^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$", re.M)


def lint(mandoc, pages):
    said = subprocess.run([mandoc, "-Tlint", *pages], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in said.stdout.splitlines():
        if not ELSEWHERE.search(line):
            yield line


def dead(pages):
    for page in pages:
        for name, section in re.findall(r"^\.Xr (mailferry\S*) (\d)",
                                        page.read_text("utf-8"), re.M):
            if not (DOCS / f"{name}.{section}").exists():
                yield f"{page.name}: there is no {name}({section})"


def examples():
    """Returns {section: [its examples]} of mailferry.yaml(5)."""
    _, *parts = SECTION.split((DOCS / "mailferry.yaml.5").read_text("utf-8"))
    return {name: EXAMPLE.findall(text)
            for name, text in zip(parts[::2], parts[1::2])}


def keys(text):
    return set(re.findall(r"^(\w+):", text, re.M))


def configurations():
    found = examples()
    joined = [block.replace("\\e", "\\") for name in found
              if name.startswith("SECTION ") for block in found[name]]
    if len(joined) < 9 or len(found["EXAMPLES"]) < 2:
        sys.exit("mailferry.yaml(5) is not understood")
    yield "the sections' examples", "".join(joined)
    whole = found["EXAMPLES"][0]
    for i, block in enumerate(found["EXAMPLES"]):
        rest = [p for p in re.split(r"^(?=\w)", whole, flags=re.M)
                if p and not keys(p) & keys(block)]
        text = block + "".join(rest)
        first = re.search(r"^destination:\n  (\w+):", text, re.M)[1]
        yield f"example {i + 1}", re.sub(
            r"(default_destination:) \w+", rf"\1 {first}", text)


def refused(mailferry):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "mailferry.yaml")
        for name, text in configurations():
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            done = subprocess.run(
                [mailferry, "--dump-config", "-c", path], check=False,
                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**os.environ, "REDIS_PASSWORD": "x", "DB_PASSWORD": "x",
                     "ADMIN_TOKEN": "x" * 32})
            if done.returncode != 0:
                yield f"{name}: status {done.returncode}\n{done.stdout}"


def main(mailferry, mandoc=None):
    pages = sorted(DOCS.glob("*.[58]"))
    faults = list(dead(pages)) + list(refused(mailferry))
    if mandoc:
        faults += lint(mandoc, pages)
    for fault in faults:
        print(fault)
    print(f"{len(pages)} manuals, {len(faults)} faults")
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
