"""The text of docs/api.md and docs/messages.md, from the docstrings and messages in the source."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import adversarial_dropout

SOURCE = Path(adversarial_dropout.__file__).parent
SECTIONS = "Args|Returns|Raises|Warns|Call|Shapes|Training and evaluation|Example|Attributes"
INTEGRATIONS = ("sklearn", "transformers")


def api() -> str:
    """Every public name with its signature and docstring, and the classes of the integrations."""
    names = [name for name in vars(adversarial_dropout) if _is_public(name)]
    parts = [_entry(f"{name}", getattr(adversarial_dropout, name)) for name in sorted(names, key=str.casefold)]
    for module in INTEGRATIONS:
        path = f"adversarial_dropout.integrations.{module}"
        found = vars(importlib.import_module(path))
        parts += [
            _entry(f"integrations.{module}.{name}", value)
            for name, value in found.items()
            if getattr(value, "__module__", "").startswith(path) and not name.startswith("_") and callable(value)
        ]
    return "\n\n".join(parts)


def _is_public(name: str) -> bool:
    value = getattr(adversarial_dropout, name)
    return not name.startswith("_") and callable(value)


def _entry(name: str, value: object) -> str:
    signature = "" if _is_exception(value) else _signature(value)
    return f"## `{name}`\n\n```text\n{name.rsplit('.', 1)[-1]}{signature}\n```\n\n{_markdown(inspect.getdoc(value) or '')}"


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _signature(value: object) -> str:
    assert callable(value)
    text = str(inspect.signature(value)).removesuffix(" -> None")
    text = re.sub(r"(?:adversarial_dropout|torch|collections|typing)(?:\.\w+)*\.(\w+)", r"\1", text)
    if len(text) <= 100:
        return text
    inner, result = text[1:].rsplit(")", 1)
    arguments = re.split(r", (?=[*\w]+(?:[:,=]|$))", inner)
    return "(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){result}"


def _markdown(text: str) -> str:
    """A docstring in Google's style, with the roles of Sphinx, as Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    text = re.sub(r":math:`(.+?)`", r"$`\1`$", text, flags=re.DOTALL)
    text = re.sub(
        r"^\.\. math:: (.*(?:\n    .*)*)", lambda found: f"```math\n{inspect.cleandoc(found[1])}\n```", text, flags=re.M
    )
    lines: list[str] = []
    for line in text.splitlines():
        if heading := re.fullmatch(rf"({SECTIONS}):", line):
            lines += [f"**{heading[1]}**", ""]
        elif argument := re.match(r"    (\w[\w, *]*): ", line):
            lines.append(f"- `{argument[1]}`: {line[argument.end() :]}")
        elif example := re.match(r"    (>>>|\.\.\.) ?", line):
            lines.append(f"    {example[1]} {line[example.end() :]}")
        else:
            lines.append(line[2:] if re.match(r" {8}\S", line) else line.strip())
    return "\n".join(lines).strip()


def messages() -> str:
    """Every error and warning that the library itself raises, with the file that raises it."""
    lines = ["| kind | message | from |", "| --- | --- | --- |"]
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith("experiments/"):
            lines += [f"| {kind} | {text.replace('|', chr(92) + '|')} | `{name}` |" for kind, text in _found(path)]
    return "\n".join(lines)


def _found(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = ast.unparse(node.exc.func)
            if kind == "error":
                kind = "InvalidValueError or InvalidTypeError"
            yield kind, _text(node.exc.args[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("warnings.warn", "self.warn_once", "self._warn"):
            if node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                yield "AdversarialDropoutWarning", _text(node.args[0])


def _text(message: ast.expr) -> str:
    """A message with ``…`` in place of what is known only when it is raised."""
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
