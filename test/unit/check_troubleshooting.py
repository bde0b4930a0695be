#!/usr/bin/env python3
"""What an operator can read in the log and on standard error has to be in
docs/troubleshooting.md.

Reads the C source: the names in failure_rows, and the string literals in
calls that log, refuse, or explain, or are printed to stderr. A text with
conversions (%s) is looked for in the pieces between them; what a key accepts,
behind what is wrong ("; expected ..."), explains itself. Line breaks in the
document do not matter."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SOURCES = ("session/*.c", "service/*.c", "store/*.c", "net/*.c", "config/*.c",
           "server/*.c", "platform/*.c", "*.c")
LOG = ("log_msg", "log_begin", "origin_log")
REASONS = ("backend_fail", "session_failed", "session_close", "err_set",
           "err_set_ssl", "config_problem", "config_warning", "client_end",
           "client_misplaced", "client_malformed", "connector_failed",
           "store_file_problem")
STDERR = re.compile(r"\bfprintf\s*\(\s*stderr\s*,")
# About keys, in config/: calls, and functions that return why.
KEYS = ("notes_error", "notes_warn", "notes_line", "read_bad_value",
        "config_yaml_fault")
ACCEPTED = re.compile(r"(\s*\(.*\)|; (expected|did you mean).*)$")
# Adjacent literals are one.
LITERAL = re.compile(r'"(?:\\.|[^"\\])*"(?:\s*"(?:\\.|[^"\\])*")*')
WHY = re.compile(r"\breturn\s+(" + LITERAL.pattern + ");")
CONVERSION = re.compile(r"%[-+ #0-9.*]*(?:hh|h|ll|l|z|j)?[a-zA-Z]")
FAILURE = re.compile(r'\[(FAIL_\w+)\]\s*=\s*\{\s*"([^"]+)"')


def arguments(text, start):
    """Returns the text from the opening parenthesis to its match."""
    depth, i = 1, start
    while depth:
        literal = LITERAL.match(text, i)
        if literal:
            i = literal.end()
            continue
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        i += 1
    return text[start:i - 1]


def spoken(literal):
    """Returns what the program prints for adjacent literals."""
    text = "".join(re.findall(r'"((?:\\.|[^"\\])*)"', literal))
    return text.replace(r"\n", "").replace(r"\"", '"')


def calls(names):
    return re.compile(r"\b(?:%s)\s*\(" % "|".join(names))


def literals(text, opening):
    for match in opening.finditer(text):
        for literal in LITERAL.findall(arguments(text, match.end())):
            yield spoken(literal)


def about_keys(text):
    for literal in literals(text, calls(KEYS)):
        yield ACCEPTED.sub("", literal)
    for match in WHY.finditer(text):
        yield ACCEPTED.sub("", spoken(match[1]))


def pieces(text):
    """Yields the pieces to find: prose, not keys and separators."""
    for piece in CONVERSION.split(text):
        piece = piece.strip(" :;,()")
        if len(piece) > 3:
            yield piece


def main():
    document = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    flat = " ".join(document.split())
    wanted = {}
    logged = on_stderr = 0
    for source in SOURCES:
        for path in sorted((ROOT / "src").glob(source)):
            text = path.read_text("utf-8")
            said = list(literals(text, calls(LOG)))
            logged += len(said)
            printed = list(literals(text, STDERR))
            on_stderr += len(printed)
            said += printed
            said += [literal for literal in literals(text, calls(REASONS))
                     if " " in literal]  # the others are keys
            if source.startswith("config"):
                said += [why for why in about_keys(text) if " " in why]
            for literal in said:
                for piece in pieces(literal):
                    wanted.setdefault(piece, path.name)
    failures = FAILURE.findall(
        (ROOT / "src/session/failure.c").read_text("utf-8"))
    if len(failures) < 15 or logged < 20 or len(wanted) < 200 \
            or on_stderr < 8:
        sys.exit("the source is not understood: "
                 f"{len(failures)} failures, {logged} log texts, "
                 f"{on_stderr} on stderr, {len(wanted)} in all")
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
