"""Writes a configuration as YAML that people can read.

Block style for sections, flow style for lists; every text is quoted, so that
no word is taken for something else. Remembers the line of each key, for the
tests of problem lines.
"""

import json


class Raw(str):
    """A scalar that is written as it stands."""


def scalar(value):
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(scalar(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def dump(tree):
    """The text, and a dict from dotted key to line number."""
    lines, where = [], {}
    _dump(tree, "", 0, lines, where)
    return "\n".join(lines) + "\n", where


def _dump(tree, path, depth, lines, where):
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        indent = "  " * depth
        where[name] = len(lines) + 1
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{key}:")
            _dump(value, name, depth + 1, lines, where)
        elif isinstance(value, dict):
            lines.append(f"{indent}{key}: {{}}")
        else:
            lines.append(f"{indent}{key}: {scalar(value)}")
