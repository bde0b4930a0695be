#!/usr/bin/env python3
"""What an operator can read in the log has to be in docs/troubleshooting.md.

Reads the C source: the names in session_failures, and the string literals in
calls that log, refuse, or explain. A text with conversions (%s) is looked for
in the pieces between them. Line breaks in the document do not matter."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAYERS = ("session", "service", "server")
LOG = ("log_msg", "log_begin", "session_log")
REASONS = ("backend_fail", "session_failed", "session_close", "err_set",
           "err_set_ssl", "config_problem", "config_warning", "client_end",
           "client_misplaced", "client_malformed", "connector_failed",
           "store_file_problem")
# Adjacent literals are one.
LITERAL = re.compile(r'"(?:\\.|[^"\\])*"(?:\s*"(?:\\.|[^"\\])*")*')
CONVERSION = re.compile(r"%[-+ #0-9.*]*(?:hh|h|ll|l|z|j)?[a-zA-Z]")
FAILURE = re.compile(r'\[(FAIL_\w+)\]\s*=\s*\{\s*"([^"]+)"')


def arguments(text, start):
    """From behind the opening parenthesis to its match."""
    depth, i = 1, start
    while depth:
        literal = LITERAL.match(text, i)
        if literal:
            i = literal.end()
            continue
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        i += 1
    return text[start:i - 1]


def literals(text, names):
    call = re.compile(r"\b(?:%s)\s*\(" % "|".join(names))
    for match in call.finditer(text):
        for literal in LITERAL.findall(arguments(text, match.end())):
            yield "".join(re.findall(r'"((?:\\.|[^"\\])*)"', literal))


def pieces(text):
    """What has to be found: prose, not keys and separators."""
    for piece in CONVERSION.split(text):
        piece = piece.strip(" :;,()")
        if len(piece) > 3:
            yield piece


def main():
    document = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    flat = " ".join(document.split())
    wanted = {}
    logged = 0
    for layer in LAYERS:
        for path in sorted((ROOT / "src" / layer).glob("*.c")):
            text = path.read_text("utf-8")
            for literal in literals(text, LOG):
                logged += 1
                for piece in pieces(literal):
                    wanted.setdefault(piece, path.name)
            for literal in literals(text, REASONS):
                if " " in literal:  # the others are keys
                    for piece in pieces(literal):
                        wanted.setdefault(piece, path.name)
    failures = FAILURE.findall(
        (ROOT / "src/session/session.c").read_text("utf-8"))
    if len(failures) < 15 or logged < 20 or len(wanted) < 80:
        sys.exit("the source is not understood: "
                 f"{len(failures)} failures, {logged} log texts, "
                 f"{len(wanted)} in all")
    missing = [f"failure {name} ({row}) has no row in the table"
               for row, name in failures if f"\n| `{name}` |" not in document]
    missing += [f"{where}: {piece}" for piece, where in wanted.items()
                if piece not in flat]
    for line in missing:
        print("not in docs/troubleshooting.md:", line)
    print(f"{len(failures)} failures and {len(wanted)} texts, "
          f"{len(missing)} missing")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
