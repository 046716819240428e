"""Rewrites the generated parts of docs/reference from the code: python docs/generate_reference.py."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tacit import cli
from tacit.engine.nats.network import NetworkFile
from tacit.engine.witnesses import WitnessesFile
from tacit.evidence import (
    claims_identity,
    claims_policy,
    claims_privacy,
    claims_rounds,
    claims_statements,
    claims_witness,
)
from tacit.evidence.report import CLAIMS
from tacit.party.config import SiteConfig
from tacit.party.job import JobSpec
from tacit.policy.cases import CaseFile
from tacit.policy.column import ALLOWED_METHODS
from tacit.policy.contract import Contract
from tacit.policy.request import CONTEXT_KINDS, Request
from tacit.policy.rules import BUILT_IN_RULES
from tacit.policy.transform import FEATURE_METHODS, KEYED_METHODS, METHODS
from tacit.service.config import ServiceFile
from tacit.trust.roster import RosterFile

REFERENCE = Path(__file__).parent / "reference"
PARTY = Path(__file__).parents[1] / "src" / "tacit" / "party"
SECTION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

LIMITS = {
    "exclusiveMinimum": "> {}",
    "minimum": "≥ {}",
    "exclusiveMaximum": "< {}",
    "maximum": "≤ {}",
    "pattern": "`{}`",
}
LOGS = ("self.log", "party.log", "self._party.log")
OWN_LOGS = ("self.act", "party.act", "self._party.act")
"""Of events that belong to no run."""
LOGGERS = {
    "leader": ("coordinator", "ending"),
    "site": ("site", "admission", "data"),
    "leader, site": ("heads",),
    "helper": ("helper",),
    "all": ("witnessing", "base"),
    "operator": ("operators", "inside"),
}
EVENTS = {
    "run.offered": "offers a run",
    "round.started": "starts a round on a model",
    "cohort.fixed": "decides whose uploads are in the sum",
    "aggregate.computed": "has added up a cohort",
    "offer.received": "has received an offer",
    "policy.decided": "has its policy's answer",
    "budget.reserved": "reserves the whole plan in its budget",
    "budget.head": "has seen the head of a client's budget, and remembers it: a countersignature",
    "receipt.issued": "has read, redacted and checked its data (salted commitment)",
    "offer.accepted": "takes part",
    "model.checked": "has derived the round's model itself",
    "budget.charged": "charges its budget, before the upload leaves",
    "model.caught-up": "takes over a model that it missed, on the cohort's word",
    "aggregate.owed": "has drawn an aggregate that it must add up before it goes on",
    "aggregate.verified": "has added up the uploads behind an aggregate, and they agree",
    "aggregate.refuted": "has added up the uploads behind an aggregate, and they do not agree",
    "upload.sent": "sends its masked upload",
    "run.settled": "settles its budget",
    "round.refused": "refuses an offer or a round",
    "helper-key.issued": "issues a key for one round",
    "mask-sum.answered": "answers for one cohort, its key erased",
    "helper.refused": "refuses a request",
    "round.aborted": "sees a round end without a result",
    "model.released": "releases the final model",
    "run.released": "frees the reservation of a run for which nothing left",
    "log.witnessed": "tells which signed head of another's log it cosigned last",
    "run.closed": "closes the run",
    "run.resumed": "goes on with the run after a restart",
    "witness.refused": "does not cosign the head of a log that went back or was rewritten",
    "party.restarted": "was started again (of no run)",
    "operator.budget-released": "frees a reservation on the operator's word (of no run)",
    "operator.heads-accepted": "forgets budget and log of another on the operator's word (of no run)",
    "operator.attack-begun": "reads the site's data for attacks inside it, on the operator's word (of no run)",
    "operator.key-erased": "destroys a token key on the operator's word (of no run)",
    "operator.receipts-erased": "destroys salt and receipts of a run on the operator's word (of no run)",
}


def main() -> None:
    """Brings every page up to date."""
    for page in pages():
        page.write_text(rendered(page.read_text("utf-8")), "utf-8")


def pages() -> list[Path]:
    """The pages with generated parts."""
    return sorted(REFERENCE.glob("*.md"))


def rendered(text: str) -> str:
    """A page with its generated parts brought up to date."""
    return SECTION.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n{match[3]}", text)


# --- TOML ----------------------------------------------------------------------------------------


def tables(model: type[BaseModel]) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    """Every table of a file: its heading in TOML, what it is, and its keys."""
    schema = model.model_json_schema(by_alias=True)
    yield from _tables("", "", schema, schema.get("$defs", {}))


def _tables(
    path: str, heading: str, table: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[tuple[str, str, list[dict[str, str]]]]:
    required = table.get("required", [])
    keys, inner = [], []
    for name, item in table["properties"].items():
        target = _reference(item)
        if target is None:
            keys.append(_key(name, item, name in required))
            continue
        named = ".NAME" if "patternProperties" in item else ""
        below = f"{path}.{name}{named}".strip(".")
        form = f"[[{below}]]" if "items" in item else f"[{below}]"
        text = item.get("description", known[target]["description"])
        inner.append((below, form, {**known[target], "description": text}))
    yield heading, _plain(table["description"]), keys
    for below, form, content in inner:
        yield from _tables(below, form, content, known)


def _reference(item: Mapping[str, Any]) -> str | None:
    options = [item, item.get("items", {}), *item.get("anyOf", [])]
    options += item.get("patternProperties", {}).values()
    found = [option["$ref"] for option in options if "$ref" in option]
    return found[0].rpartition("/")[2] if found else None


def _key(name: str, item: Mapping[str, Any], required: bool) -> dict[str, str]:
    options = [option for option in item.get("anyOf", [item]) if option.get("type") != "null"]
    default = item.get("default")
    return {
        "key": f"`{name}`",
        "type": " or ".join(dict.fromkeys(_type(option) for option in options)),
        "default": "required" if required else "none" if default is None else f"`{_toml(default)}`",
        "limits": "; ".join(
            filter(None, map(_limits, [*options, item.get("items", {}), _values(item)]))
        ),
        "meaning": _plain(item.get("description", "")),
    }


def _values(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the values of a table with free names must be; nothing for anything else."""
    patterns = item.get("patternProperties", {}).values()
    found = item.get("additionalProperties") or next(iter(patterns), None)
    return found if isinstance(found, Mapping) else {}


def _type(option: Mapping[str, Any]) -> str:
    if option.get("type") == "array":
        of = option["items"].get("anyOf", [option["items"]])
        return f"array of {' or '.join(_type(kind) for kind in of)}"
    if option.get("type") == "object":
        return f"table of {_type(_values(option))}"
    if "anyOf" in option:
        return " or ".join(dict.fromkeys(_type(kind) for kind in option["anyOf"]))
    return option.get("format") or option["type"]


def _limits(option: Mapping[str, Any]) -> str:
    if "const" in option:
        return f"`{_toml(option['const'])}`"
    if "enum" in option:
        return ", ".join(f"`{_toml(value)}`" for value in option["enum"])
    found = [text.format(option[name]) for name, text in LIMITS.items() if name in option]
    low, high = option.get("minLength"), option.get("maxLength")
    if low is not None or high is not None:
        size = f"{low or 0} to {high}" if high is not None else f"at least {low}"
        found.append(f"{size} character{'s' if (high or low) != 1 else ''}")
    return ", ".join(found)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def configuration(model: type[BaseModel]) -> str:
    """All keys of one file."""
    parts = []
    for heading, text, keys in tables(model):
        # An inner table without keys of its own only holds further tables.
        title = [f"**`{heading}`**: {_after_colon(text)}"] if heading else []
        parts += [*title, _markdown(keys)]
    return "\n\n".join(parts) + "\n"


def _after_colon(text: str) -> str:
    """The docstring of a table without the repeated name of the table."""
    text = re.sub(r"^`[^`]+`: ", "", text)
    return text[0].lower() + text[1:]


def classes() -> str:
    """What may become of a column of each class."""
    rows = [
        {"classification": f"`{name}`", "methods": ", ".join(f"`{method}`" for method in methods)}
        for name, methods in ALLOWED_METHODS.items()
    ]
    return _markdown(rows) + "\n"


def methods() -> str:
    """Where each method may stand, and what it takes."""
    rows = [
        {
            "method": f"`{name}`",
            "logicalType": "every"
            if name == "drop"
            else ", ".join(f"`{kind}`" for kind in fit.types),
            "keys": ", ".join(
                [f"`{key}`" for key in sorted(fit.required)]
                + [f"`{key}` (optional)" for key in sorted(fit.optional)]
            ),
            "may be trained on": "yes" if name in FEATURE_METHODS else "no",
            "under a key of the site": "yes" if name in KEYED_METHODS else "no",
        }
        for name, fit in METHODS.items()
    ]
    return _markdown(rows) + "\n"


# --- command line ----------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments."""
    parser = cli._parser()  # noqa: SLF001 - the one description of the command line
    return "\n\n".join(_command(name, one) for name, one in _commands(parser)) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser, each before those within it."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, command in action.choices.items():
                yield name, command
                for inner, one in _commands(command):
                    yield f"{name} {inner}", one


def _command(name: str, command: argparse.ArgumentParser) -> str:
    usage = " ".join(command.format_usage().removeprefix("usage: ").split())
    without = (argparse._HelpAction, argparse._SubParsersAction)  # noqa: SLF001
    rows = [
        {"argument": f"`{_argument(action)}`", "meaning": action.help or ""}
        for action in command._actions  # noqa: SLF001
        if not isinstance(action, without)
    ]
    return (
        f"## tacit {name}\n\n{_sentence(command.description)}\n\n"
        f"```text\n{usage}\n```\n\n{_markdown(rows)}"
    )


def _argument(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return (
        action.option_strings[-1] if action.nargs == 0 else f"{action.option_strings[-1]} {value}"
    )


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


# --- policy, errors, evidence ----------------------------------------------------------------------


def attributes() -> str:
    """What a rule can speak about."""
    texts = _arguments(Request)
    rows = [
        ("principal", "Party", texts["principal"]),
        ("resource", "Dataset", texts["dataset"]),
        *((f"context.{name}", kind, _meaning(name)) for name, kind in CONTEXT_KINDS.items()),
    ]
    keys = ("attribute", "Cedar type", "meaning")
    quoted = [(f"`{name}`", f"`{kind}`", text) for name, kind, text in rows]
    return _markdown([dict(zip(keys, row, strict=True)) for row in quoted]) + "\n"


def _meaning(name: str) -> str:
    """Of an attribute of the request: an argument, or what follows from others."""
    return _arguments(Request).get(name) or _plain(inspect.getdoc(getattr(Request, name)) or "")


def built_in() -> str:
    """The rules that are part of every policy."""
    parts = [f'@id("{name}")\n{text.strip()}' for name, text in BUILT_IN_RULES.items()]
    return "```cedar\n" + "\n\n".join(parts) + "\n```\n"


def _arguments(owner: type) -> dict[str, str]:
    """The Args section of a docstring."""
    doc = inspect.cleandoc(owner.__doc__ or "")
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
    entries = re.findall(
        r"^    (\w+): (.+(?:\n {8}.+)*)", section[1] if section else "", re.MULTILINE
    )
    return {name: _plain(" ".join(text.split())) for name, text in entries}


CLAIM_MODULES = (
    claims_identity,
    claims_witness,
    claims_rounds,
    claims_policy,
    claims_privacy,
    claims_statements,
)


def claims() -> str:
    """Every claim and what its check says."""
    checks: dict[str, Callable[..., Any]] = {}
    for module in (
        claims_identity,
        claims_policy,
        claims_privacy,
        claims_rounds,
        claims_statements,
        claims_witness,
    ):
        checks |= {name.replace("_", "-"): getattr(module, name) for name in module.__all__}
    rows = [
        {"claim": f"`{claim}`", "holds if": _plain((checks[claim].__doc__ or "").splitlines()[0])}
        for claim in CLAIMS
    ]
    return _markdown(rows) + "\n"


def events() -> str:
    """Every event that a party logs, with its fields."""
    rows = []
    for who, files in LOGGERS.items():
        found: dict[str, dict[str, None]] = {}
        for file in files:
            for name, fields in _logged(_source(file)):
                found.setdefault(name, {}).update(dict.fromkeys(fields))
        for name in sorted(found, key=list(EVENTS).index):
            columns = ", ".join(f"`{field}`" for field in found[name])
            rows.append(
                {"by": who, "event": f"`{name}`", "when it": EVENTS[name], "fields": columns}
            )
    return _markdown(rows) + "\n"


def _logged(source: str) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        at = 2 if function in LOGS else 1 if function in OWN_LOGS else len(node.args)
        kind = node.args[at] if len(node.args) > at else None
        if isinstance(kind, ast.Constant):
            yield str(kind.value), [str(keyword.arg) for keyword in node.keywords]


def _source(file: str) -> str:
    folder = PARTY.parent / "engine" if file in LOGGERS["operator"] else PARTY
    return (folder / f"{file}.py").read_text("utf-8")


# --- text ------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Docstring markup as Markdown."""
    return " ".join(text.replace("``", "`").split())


def _markdown(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "job": lambda: configuration(JobSpec),
    "site": lambda: configuration(SiteConfig),
    "contract": lambda: configuration(Contract),
    "classes": classes,
    "methods": methods,
    "federation": lambda: configuration(RosterFile),
    "network": lambda: configuration(NetworkFile),
    "witnesses": lambda: configuration(WitnessesFile),
    "service": lambda: configuration(ServiceFile),
    "commands": commands,
    "attributes": attributes,
    "built-in": built_in,
    "policy-tests": lambda: configuration(CaseFile),
    "claims": claims,
    "events": events,
}

if __name__ == "__main__":
    sys.exit(main())
