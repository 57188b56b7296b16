"""What makes each generated block of the docs: Markdown, read from the code."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import import_blocks
import init_blocks
import memory_blocks
import peer_blocks
import result_blocks

import gguf_export.errors
import lowvram_ft.errors
from lowvram_ft.cli import cli
from lowvram_ft.data.sources import SOURCES
from lowvram_ft.recipe import SECTIONS, load, recipes_dir, shipped_recipes
from lowvram_ft.recipe.sections import Recipe

ROOT = Path(__file__).resolve().parents[1]
LINE_LENGTH = 120
"""As in pyproject.toml: ruff also formats the Python in Markdown."""

SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "row": ("lowvram_ft.data.row.Row", "lowvram_ft.data.row.build_prompt", "lowvram_ft.data.row.make_row"),
    "source": (
        "lowvram_ft.data.sources.source.Source",
        "lowvram_ft.data.sources.load_rows",
        "lowvram_ft.data.prepare.prepare",
        "lowvram_ft.data.prepared.Prepared",
        "lowvram_ft.data.prepared.Example",
    ),
    "rendering": ("lowvram_ft.rendering.Rendered", "lowvram_ft.rendering.ChatFormat"),
    "import-line": (
        "lowvram_ft.data.imports.solution_line.import_from_solution",
        "lowvram_ft.testgen.texts.drop.import_real_module",
    ),
    "execution": (
        "lowvram_ft.execution.executor.run_tests",
        "lowvram_ft.execution.executor.mutation_analysis",
        "lowvram_ft.execution.executor.judge",
        "lowvram_ft.execution.many.run_many",
        "lowvram_ft.execution.many.run_stream",
    ),
    "verdict": ("lowvram_ft.execution.verdict.Verdict", "lowvram_ft.execution.verdict.TestResult"),
    "mutation": (
        "lowvram_ft.execution.verdict.MutationReport",
        "lowvram_ft.execution.verdict.Mutant",
        "lowvram_ft.execution.verdict.Judgement",
    ),
    "generate": (
        "lowvram_ft.inference.protocol.Sampling",
        "lowvram_ft.inference.protocol.Completion",
        "lowvram_ft.inference.protocol.Generator",
    ),
    "opening": (
        "lowvram_ft.inference.opening.open_model",
        "lowvram_ft.inference.opening.choose_model",
        "lowvram_ft.inference.openai_compatible.OpenAICompatible",
        "lowvram_ft.inference.retrying.Policy",
        "lowvram_ft.testgen.writer.TestWriter",
    ),
    "extraction": ("lowvram_ft.inference.extraction.extract_test",),
    "testgen": (
        "lowvram_ft.testgen.subject.Target",
        "lowvram_ft.testgen.subject.Subject",
        "lowvram_ft.testgen.subject.Unit",
        "lowvram_ft.testgen.subject.Worth",
        "lowvram_ft.testgen.targets.find.find",
        "lowvram_ft.testgen.project.place.place",
        "lowvram_ft.testgen.units.split.units_of",
        "lowvram_ft.testgen.worth.measure.baseline",
        "lowvram_ft.testgen.attempts.candidates.write_candidates",
        "lowvram_ft.testgen.worth.select.choose",
        "lowvram_ft.testgen.texts.merge.merge",
        "lowvram_ft.testgen.write.write_tests",
    ),
    "engine": (
        "lowvram_ft.training.engines.protocol.LoadPlan",
        "lowvram_ft.training.engines.protocol.Loaded",
        "lowvram_ft.training.engines.protocol.Engine",
        "lowvram_ft.training.engines.choice.choose",
    ),
    "gguf": ("gguf_export.export.export", "gguf_export.proof.verify.verify", "gguf_export.ollama.modelfile.modelfile"),
    "memory": (
        "lowvram_ft.memory.plan.plan_memory",
        "lowvram_ft.memory.fit.fit",
        "lowvram_ft.memory.fit.Fit",
        "lowvram_ft.memory.levers.Change",
        "lowvram_ft.memory.speed.step_time",
        "lowvram_ft.memory.speed.StepTime",
    ),
    "limits": ("lowvram_ft.execution.limits.Limits",),
}
"""Group to what it shows, by dotted name; read from the source, nothing is imported for it."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def plain(text: str | None) -> str:
    """A docstring as Markdown on one line."""
    return " ".join((text or "").replace("``", "`").split())


def commands(group: click.Group = cli, path: str = "lowvram-ft") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name, in the order of their names."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def cli_block() -> str:
    """Every command: usage, help, arguments, options, defaults."""
    parts = ["Before any command: " + "; ".join(_flag(option) for option in cli.params) + ".\n"]
    for name, command in commands():
        context = click.Context(command, info_name=name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        rows = [_parameter(parameter, context) for parameter in command.params]
        rows.sort(key=lambda row: row[0].startswith("`-"))  # arguments first
        head = ("argument or option", "value", "default", "meaning")
        about = "\n\n".join(plain(part) for part in (command.help or "").split("\n\n"))
        parts.append(f"## {name}\n\n```\n{usage}\n```\n\n{about}\n\n{table(head, rows)}")
    return "\n".join(parts)


def _flag(option: click.Parameter) -> str:
    about = getattr(option, "help", None) or ""
    return f"`{', '.join(option.opts)}` {about[:1].lower()}{about[1:].rstrip('.')}"


def _parameter(parameter: click.Parameter, context: click.Context) -> tuple[str, str, str, str]:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if isinstance(parameter, click.Argument):
        return f"`{parameter.make_metavar(context)}`", _value(parameter), "", "required" if parameter.required else ""
    option = parameter if isinstance(parameter, click.Option) else None
    default = parameter.get_default(context)
    given = isinstance(default, str | int | float | tuple) and default is not False and default != ()
    shown = _default(default) if given else ""
    about = (option.help or "") if option is not None else ""
    return f"`{names}`", _value(parameter), "required" if parameter.required else shown, about


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes"
    return f"`{', '.join(str(item) for item in value) if isinstance(value, tuple) else value}`"


def _value(parameter: click.Parameter) -> str:
    """What may stand there: a range, a choice, a path."""
    kind: Mapping[str, Any] = parameter.type.to_info_dict()
    if getattr(parameter, "is_flag", False):
        return "flag"
    if kind["param_type"] == "Choice":
        return " or ".join(f"`{choice}`" for choice in kind["choices"])
    if kind["param_type"] == "Path":
        return "folder" if not kind["file_okay"] else "file"
    low, high = kind.get("min"), kind.get("max")
    bounds = [f"{'above' if kind.get('min_open') else 'from'} {low}"] if low is not None else []
    bounds += [f"to {high}"] if high is not None else []
    name = {"Int": "integer", "IntRange": "integer", "Float": "number", "FloatRange": "number"}.get(kind["param_type"])
    base = name or (f"`{parameter.metavar}`" if isinstance(parameter, click.Option) and parameter.metavar else "text")
    return " ".join([base, *bounds])


def error_classes() -> dict[str, list[type[Exception]]]:
    """Module to its error classes, in the order of the source."""
    modules = (lowvram_ft.errors, gguf_export.errors)
    return {
        module.__name__: [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.__name__
        ]
        for module in modules
    }


def errors_block() -> str:
    """Every error class: its parent, exit code and meaning."""
    parts = []
    for module, classes in error_classes().items():
        rows = [
            (
                f"[`{kind.__name__}`](#{kind.__name__.lower()})",
                "" if kind.__base__ in (None, Exception) else f"`{kind.__base__.__name__}`",
                str(vars(kind).get("exit_code", getattr(kind, "exit_code", 1))),
                plain((kind.__doc__ or "").split("\n\n")[0]),
            )
            for kind in classes
        ]
        parts.append(f"### `{module}`\n\n{table(('error', 'is a', 'exit code', 'when'), rows)}")
    return "\n".join(parts)


def recipe_keys_block() -> str:
    """Every key of every section: what it takes, its default, its meaning."""
    notes = _attribute_notes(ROOT / "lowvram_ft" / "recipe" / "sections.py")
    parts = []
    for section in SECTIONS:
        model = type(Recipe.model_fields[section].default)
        schema = model.model_json_schema()["properties"]
        rows = [
            (f"`{key}`", _kind(entry), _toml(entry.get("default")), notes.get((model.__name__, key), ""))
            for key, entry in schema.items()
        ]
        head = ("key", "value", "default", "meaning")
        parts.append(f"### [{section}]\n\n{plain(model.__doc__)}\n\n{table(head, rows)}")
    return "\n".join(parts)


def _attribute_notes(path: Path) -> dict[tuple[str, str], str]:
    """(class, attribute) to the string that stands under the attribute."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for field, note in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
                found[node.name, ast.unparse(field.target)] = plain(str(note.value.value))  # type: ignore[attr-defined]
    return found


def _kind(entry: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in entry:
        return " or ".join(_kind(part) for part in entry["anyOf"] if part.get("type") != "null")
    if "const" in entry or "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "array":
        items = _kind(entry["items"])
        return f"list of {items}" if "`" in items else "list of texts"
    name = {"string": "text", "boolean": "`true`, `false`"}.get(entry["type"], entry["type"])
    words = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to", "exclusiveMaximum": "and below"}
    return " ".join([name, *(f"{word} {entry[key]:g}" for key, word in words.items() if key in entry)])


def _toml(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def shipped_recipes_block() -> str:
    """The recipes that ship with the kit."""
    rows = []
    for path in shipped_recipes():
        resolved = load(str(path))
        stages = ", ".join(stage.name for stage in resolved.stages)
        about = tomllib.loads(path.read_text(encoding="utf-8")).get("description", "")
        rows.append((f"`{path.stem}`", about, stages, f"`{resolved.stages[0].recipe.model.base}`"))
    return table(("recipe", "what it does", "stages", "base model"), rows)


def models_block() -> str:
    """The base models whose facts ship with the kit, and their licences."""
    facts = tomllib.loads((recipes_dir() / "models.toml").read_text(encoding="utf-8"))
    return table(("base model", "licence"), [(f"`{name}`", fact["licence"]) for name, fact in facts["models"].items()])


def sources_block() -> str:
    """The sources of rows."""
    return table(
        ("source", "data set", "columns that are read", "licence"),
        [
            (f"`{source.name}`", f"`{source.hub_id}`" if source.hub_id else "", source.columns, source.licence)
            for source in SOURCES.values()
        ],
    )


def _contracts() -> list[dict[str, Any]]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts: list[dict[str, Any]] = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    return contracts


def _layers() -> list[str]:
    layers: list[str] = next(contract["layers"] for contract in _contracts() if contract["type"] == "layers")
    return layers


def layers_block() -> str:
    """The layers of the package, from top to bottom."""
    return "```\n" + "\n".join(_layers()) + "\n```\n"


def contracts_block() -> str:
    """What may not be imported, and where."""
    rows = [
        (contract["name"], ", ".join(f"`{name}`" for name in contract["forbidden_modules"]), _not_in(contract))
        for contract in _contracts()
        if contract["type"] == "forbidden"
    ]
    return table(("contract", "packages", "not imported by"), rows)


def _not_in(contract: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name.removeprefix('lowvram_ft.')}`" for name in contract["source_modules"])


def signatures_block(group: str) -> str:
    """Fields and signatures, as they stand in the source, without docstrings and bodies."""
    parts = [_declaration(name) for name in SIGNATURES[group]]
    return "```python\n" + "\n\n\n".join(parts) + "\n```\n"


def _declaration(dotted: str) -> str:
    module, _, name = dotted.rpartition(".")
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    source = path.read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            lines = source.splitlines()
            return f"# {module}\n" + "\n".join(_header(node, lines))
    raise ValueError(f"{path}: no class or function named {name}; mend SIGNATURES in {Path(__file__).name}")


def _header(node: ast.ClassDef | ast.FunctionDef, lines: Sequence[str]) -> list[str]:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    head = [line.split("  # ")[0] for line in lines[start - 1 : node.body[0].lineno - 1] if line.strip()]
    if isinstance(node, ast.FunctionDef):
        return [*head[:-1], *_wrapped(f"{head[-1]} ...")]
    for member in node.body:
        if isinstance(member, ast.AnnAssign):
            head += lines[member.lineno - 1 : member.end_lineno]
        elif isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            # a blank line between members, none after the class's own line, as ruff has it
            head += [*([] if head[-1].endswith(":") else [""]), *_header(member, lines)]
    return head


def _wrapped(line: str) -> list[str]:
    """A one-line signature as ruff formats it: where it is too long, the parameters on a line of their own."""
    match = re.match(r"(?P<indent> *)(?P<start>def \w+\()(?P<parameters>.+)(?P<end>\) -> .+)", line)
    if match is None or len(line) <= LINE_LENGTH:
        return [line]
    indent, start, parameters, end = match.groups()
    return [indent + start, f"{indent}    {parameters}", indent + end]


BLOCKS: Mapping[str, Callable[[], str]] = {
    "cli": cli_block,
    "errors": errors_block,
    "recipe-keys": recipe_keys_block,
    "shipped-recipes": shipped_recipes_block,
    "models": models_block,
    "sources": sources_block,
    "layers": layers_block,
    "imports": lambda: import_blocks.imports_block(_layers()),
    "contracts": contracts_block,
    "peers": lambda: peer_blocks.peers_block(table),
    "memory-plans": lambda: memory_blocks.plans_block(table),
    "memory-levers": lambda: memory_blocks.levers_block(table),
    "memory-cards": lambda: memory_blocks.cards_block(table),
    "memory-anchor": lambda: memory_blocks.anchor_block(table),
    "init-picks": lambda: init_blocks.picks_block(table),
    "humaneval": lambda: result_blocks.humaneval_block(table),
    "preference": lambda: result_blocks.preference_block(table),
    **{f"signatures-{group}": lambda group=group: signatures_block(group) for group in SIGNATURES},  # type: ignore[misc]
}
"""Name of a generated block to what makes it."""
