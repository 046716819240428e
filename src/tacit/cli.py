"""The command line. Exit codes: 0 done, 1 refused or failed, 2 not proven or not measured, 64 usage or no verdict, 130 interrupted."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tacit import __version__
from tacit.cli_attack import add_attack
from tacit.cli_contract import add_contract
from tacit.cli_federation import add_federation
from tacit.cli_parties import add_parties
from tacit.cli_service import add_service
from tacit.errors import ConfigError, TacitError

__all__ = ["main"]

FAILED, USAGE, INTERRUPTED = 1, 64, 130
STOPPED = ("run.interrupted", "attack.interrupted")


class _Parser(argparse.ArgumentParser):
    """Usage errors exit with 64, so that 2 can mean NOT PROVEN."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except TacitError as error:
        return _report(error, as_json=options.json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    return code


def _report(error: TacitError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.diagnostics(), indent=2))
    else:
        from tacit.show import show_error  # noqa: PLC0415

        show_error(error)
    return INTERRUPTED if error.code in STOPPED else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tacit", description="Privacy-first federated learning with evidence built in."
    )
    parser.add_argument("--version", action="version", version=f"tacit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "four hospitals train together; everything is shown")
    demo.add_argument(
        "--data",
        choices=("hospitals", "digits"),
        default="hospitals",
        help="which public records (default: hospitals)",
    )
    demo.add_argument("--out", type=Path, help="folder for the results (default: runs/demo-*)")

    init = _command(commands, "init", _init, "write an example federation that runs at once")
    init.add_argument("folder", type=Path, help="folder to make")

    check = _command(commands, "check", _check, "check job, sites, data, policies and budgets")
    _add_job(check)

    run = _command(commands, "run", _run, "run a job on the embedded engine")
    _add_job(run)
    run.add_argument("--out", type=Path, help="folder for the result (default: runs/ID)")
    run.add_argument("--resume", type=Path, metavar="RUN", help="continue a killed run's folder")

    verify = _command(commands, "verify", _verify, "verify an evidence bundle offline")
    verify.add_argument("bundle", type=Path, help="the bundle.zip of a run")
    verify.add_argument(
        "--trust",
        type=Path,
        help="trust.json: whose keys count; never from whoever sent the bundle",
    )
    verify.add_argument(
        "--html", type=Path, metavar="FILE", help="write the result as a page for people, too"
    )

    _add_witness(commands)
    _add_budget(commands)
    add_contract(commands, _command)
    _add_policy(commands)
    add_federation(commands, _command)

    prior = _command(commands, "prior", _prior, "fit a public prior for a job's features")
    prior.add_argument(
        "job", type=Path, nargs="?", default=Path("job.toml"), help="job file (default: job.toml)"
    )
    data = prior.add_mutually_exclusive_group(required=True)
    data.add_argument("--contract", type=Path, help="contract of public records to fit it on")
    data.add_argument(
        "--generated", type=int, metavar="N", help="fit it on N generated images of shapes instead"
    )
    prior.add_argument("--rank", type=int, default=1600, help="axes to keep (default: 1600)")
    prior.add_argument(
        "--power", type=float, default=1.0, help="0 turns only, 1 evens out (default: 1.0)"
    )
    prior.add_argument("--out", type=Path, default=Path("prior.safetensors"), help="file to write")

    add_service(commands, _command)
    add_parties(commands, _command)
    add_attack(commands, _command)
    audit = _command(commands, "audit", _audit, "add kept rounds up again, and name who lied")
    audit.add_argument("run", type=Path, help="the folder of a run, for example runs/3f2a9c1b04de")
    audit.add_argument(
        "--forget",
        action="store_true",
        help="drop the kept vectors afterwards: frees space, ends auditing",
    )
    return parser


def _command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    *,
    inner: bool = False,
) -> argparse.ArgumentParser:
    """A command; an ``inner`` one leaves a ``--json`` that stood before its name as it was."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    absent: Any = argparse.SUPPRESS if inner else False
    parser.add_argument(
        "--json", action="store_true", default=absent, help="print one JSON object for scripts"
    )
    parser.set_defaults(command=function)
    return parser


def _add_witness(commands: Any) -> None:
    witness = _command(
        commands,
        "witness",
        _witness,
        "run an independent witness, which cosigns the logs of parties",
    )
    witness.add_argument("folder", type=Path, help="its folder: key and memory; made if need be")
    witness.add_argument(
        "--roster",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="federation.toml whose parties' logs it witnesses; may be repeated",
    )
    witness.add_argument("--name", help="name in its cosignatures (default: that of the folder)")
    witness.add_argument(
        "--listen",
        default="127.0.0.1:7878",
        metavar="HOST:PORT",
        help="address to listen on (default: 127.0.0.1:7878)",
    )


def _add_budget(commands: Any) -> None:
    text = "what sites' privacy budgets have spent, and how"
    budget = _command(commands, "budget", _budget_show, f"show {text}")
    budget.set_defaults(sites=[], release=None)
    inner = budget.add_subparsers(title="commands (default: show)", metavar="[COMMAND]")

    show = _command(inner, "show", _budget_show, "show what is spent and what is left", inner=True)
    _add_sites(show)
    show.add_argument(
        "--release", metavar="RUN", help="free what a run reserved that never sent anything"
    )
    history = _command(
        inner,
        "history",
        _budget_history,
        "list every reservation, charge and settlement",
        inner=True,
    )
    _add_sites(history)
    plan = _command(
        inner, "plan", _budget_plan, "show which noise, rounds and accuracy it buys", inner=True
    )
    _add_job(plan)
    plan.add_argument("--epsilon", type=float, help="epsilon to plan for (default: the job's)")
    plan.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy over rounds (PNG)")
    heads = _command(
        inner, "heads", _budget_heads, "show what parties remember of others' budgets", inner=True
    )
    heads.add_argument(
        "folders",
        type=Path,
        nargs="*",
        help="folders of sites or the coordinator (default: all here)",
    )
    heads.add_argument(
        "--accept",
        metavar="SITE",
        help="take the next head of a site as the first: it lost its state, and that is accounted for",
    )


def _add_policy(commands: Any) -> None:
    text = "test, explain, approve and compare the rules of sites"
    policy = _command(commands, "policy", _policy_test, text)
    policy.set_defaults(sites=[])
    inner = policy.add_subparsers(title="commands (default: test)", metavar="[COMMAND]")

    test = _command(inner, "test", _policy_test, "run the policy tests of sites", inner=True)
    _add_sites(test)
    explain = _command(
        inner, "explain", _policy_explain, "say why a policy allows or denies a job", inner=True
    )
    explain.add_argument("site", type=Path, help="site folder")
    asked = explain.add_mutually_exclusive_group()
    asked.add_argument(
        "--job", type=Path, default=Path("job.toml"), help="job file (default: job.toml)"
    )
    asked.add_argument("--request", type=Path, metavar="FILE", help="fields of a request instead")
    lock = _command(
        inner,
        "lock",
        _policy_lock,
        "approve policies as they are, once their tests pass",
        inner=True,
    )
    _add_sites(lock)
    lock.add_argument("--as", dest="name", metavar="NAME", help="the approver")
    lock.add_argument(
        "--key", type=Path, metavar="FILE", help="key file (default: keys/approver-NAME.key)"
    )
    diff = _command(
        inner,
        "diff",
        _policy_diff,
        "list every decision that differs between two versions",
        inner=True,
    )
    diff.add_argument(
        "old", type=Path, metavar="OLD", help="site folder, or folder of *.cedar files"
    )
    diff.add_argument("new", type=Path, metavar="NEW", help="the same of the other version")
    diff.add_argument(
        "--roster",
        type=Path,
        metavar="FILE",
        help="federation.toml whose regions are all there are",
    )
    diff.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="compare for this value of an attribute only; may be repeated",
    )
    diff.add_argument("--exit-code", action="store_true", help="exit with 1 if a decision changes")
    code = _command(
        inner, "code", _policy_code, "print a model file's digest and the rule for it", inner=True
    )
    code.add_argument("site", type=Path, metavar="SITE", help="site folder")
    code.add_argument(
        "file", type=Path, metavar="FILE", help="a model file in SITE/code, or 'logistic'"
    )
    code.add_argument("--job", type=Path, help="a job with features.map or features.prior")
    key = _command(inner, "key", _policy_key, "make the key of an approver", inner=True)
    key.add_argument("name", metavar="NAME", help="the approver")
    key.add_argument("--site", type=Path, required=True, help="site folder")


def _add_sites(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sites", type=Path, nargs="*", help="site folders (default: sites/*)")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "job", type=Path, nargs="?", default=Path("job.toml"), help="job file (default: job.toml)"
    )
    parser.add_argument(
        "--sites", type=Path, nargs="+", help="site folders (default: sites/* beside the job)"
    )


def _demo(options: argparse.Namespace) -> int:
    from tacit.demo.show import run_demo  # noqa: PLC0415

    return run_demo(options.data, options.out, as_json=options.json)


def _init(options: argparse.Namespace) -> int:
    from tacit.demo import hospitals  # noqa: PLC0415

    job = hospitals.write_federation(options.folder, hospitals.split(0))
    if options.json:
        print(json.dumps({"job": str(job)}))
        return 0
    print(f"wrote an example federation of four hospitals to {options.folder}")
    print(
        "(real measurements, bundled with scikit-learn; names and other identities are synthetic)"
    )
    print(f"next: cd {options.folder} && tacit check && tacit run")
    return 0


def _job(path: Path) -> Any:
    from tacit.api import Job  # noqa: PLC0415

    if not path.exists():
        raise ConfigError(
            "job.missing",
            f"there is no job file {str(path)!r} here",
            remedy="change to the folder of a federation, name the job file, or run 'tacit init'",
            file=str(path),
        )
    return Job.load(path)


def _check(options: argparse.Namespace) -> int:
    from tacit.api import default_sites  # noqa: PLC0415
    from tacit.check import check_job, show_check  # noqa: PLC0415

    job = _job(options.job)
    sites = options.sites if options.sites is not None else default_sites(job.folder)
    result = check_job(job.spec, job.folder, sites)
    if options.json:
        print(json.dumps(result.record(), indent=2))
    else:
        show_check(result)
    return 0 if result.passed else FAILED


def _run(options: argparse.Namespace) -> int:
    from tacit.api import resume, train  # noqa: PLC0415
    from tacit.show import show_run  # noqa: PLC0415

    if options.resume is not None:
        if options.sites is not None or options.out is not None:
            print("tacit run: --resume takes neither --sites nor --out", file=sys.stderr)
            return USAGE
        run = resume(options.resume, quiet=options.json)
    else:
        run = train(_job(options.job), options.sites, out=options.out, quiet=options.json)
    if options.json:
        print(json.dumps(run.outcome.record(), indent=2))
    else:
        show_run(run.outcome)
    if run.complete:
        return 0
    failure = run.outcome.failure
    if failure is None:
        return FAILED
    if options.json:
        return INTERRUPTED if failure.code == "run.interrupted" else FAILED
    return _report(failure, as_json=False)


def _verify(options: argparse.Namespace) -> int:
    from tacit.evidence.files import verify  # noqa: PLC0415
    from tacit.show import show_report  # noqa: PLC0415

    try:
        report = verify(options.bundle, options.trust, html=options.html)
    except TacitError as error:
        _report(error, as_json=options.json)
        return USAGE  # 1 would say that a claim failed; there is no verdict
    if options.json:
        print(report.to_json())
    else:
        show_report(report, options.bundle)
        if options.html is not None:
            print(f"page: {options.html}")
    return report.exit_code


def _witness(options: argparse.Namespace) -> int:
    from tacit.witness import run  # noqa: PLC0415

    run(
        options.folder,
        options.roster,
        name=options.name,
        listen=options.listen,
        as_json=options.json,
    )
    return 0


def _budget_show(options: argparse.Namespace) -> int:
    from tacit.budget import show  # noqa: PLC0415

    show(_sites(options.sites), release=options.release, as_json=options.json)
    return 0


def _budget_history(options: argparse.Namespace) -> int:
    from tacit.budget import history  # noqa: PLC0415

    history(_sites(options.sites), as_json=options.json)
    return 0


def _budget_plan(options: argparse.Namespace) -> int:
    from tacit.api import default_sites  # noqa: PLC0415
    from tacit.lead import Progress  # noqa: PLC0415
    from tacit.planning import draw_plan, plan_budget, show_plan  # noqa: PLC0415
    from tacit.show import progress  # noqa: PLC0415

    job = _job(options.job)
    sites = options.sites if options.sites is not None else default_sites(job.folder)
    if options.plot is not None and not options.plot.resolve().parent.is_dir():
        raise ConfigError(
            "plan.plot",
            f"there is no folder {options.plot.resolve().parent} for the plot",
            remedy="name a file in a folder that exists",
        )
    with progress(quiet=options.json, label="planning") as tell:
        plan = plan_budget(
            job.spec,
            job.folder,
            sites,
            options.epsilon,
            on_progress=lambda done, of: tell(Progress(done, of, {})),
        )
    if options.json:
        print(json.dumps(plan.record(), indent=2))
    else:
        show_plan(plan)
    if options.plot is None:
        return 0
    if not draw_plan(plan, options.plot):
        print("no plot: matplotlib is not installed (pip install 'tacit[demo]')", file=sys.stderr)
        return FAILED
    if not options.json:
        print(f"plot: {options.plot}")
    return 0


def _budget_heads(options: argparse.Namespace) -> int:
    from tacit.budget import heads  # noqa: PLC0415

    here = [path for path in (Path("coordinator"),) if path.exists()]
    heads(options.folders or [*here, *_sites([])], accept=options.accept, as_json=options.json)
    return 0


def _policy_test(options: argparse.Namespace) -> int:
    from tacit.policies import test  # noqa: PLC0415

    return test(_sites(options.sites), as_json=options.json)


def _policy_explain(options: argparse.Namespace) -> int:
    from tacit.policies import explain  # noqa: PLC0415

    if options.request is None:
        _job(options.job)  # The error for a missing file says what to do.
    return explain(options.site, options.job, request=options.request, as_json=options.json)


def _policy_lock(options: argparse.Namespace) -> int:
    from tacit.policies import lock  # noqa: PLC0415

    sites = _sites(options.sites)
    return lock(sites, name=options.name, key_file=options.key, as_json=options.json)


def _policy_diff(options: argparse.Namespace) -> int:
    from tacit.policies import diff  # noqa: PLC0415

    return diff(
        options.old,
        options.new,
        roster=options.roster,
        only=options.only,
        exit_code=options.exit_code,
        as_json=options.json,
    )


def _policy_code(options: argparse.Namespace) -> int:
    from tacit.policies import code  # noqa: PLC0415

    return code(options.site, options.file, job=options.job, as_json=options.json)


def _policy_key(options: argparse.Namespace) -> int:
    from tacit.policies import key  # noqa: PLC0415

    return key(options.name, options.site, as_json=options.json)


def _sites(named: Sequence[Path]) -> Sequence[Path]:
    from tacit.api import default_sites  # noqa: PLC0415

    paths = named or default_sites(Path())
    if not paths:
        raise ConfigError(
            "site.none",
            "no site folder was found in sites/",
            remedy="name the site folders, for example sites/north",
        )
    return paths


def _prior(options: argparse.Namespace) -> int:
    from tacit.priors import fit_prior  # noqa: PLC0415

    source = options.generated if options.contract is None else options.contract
    job = _job(options.job).spec
    made = fit_prior(job, source, options.out, rank=options.rank, power=options.power)
    if options.json:
        print(json.dumps(made.record(), indent=2))
        return 0
    print(f"wrote {made.path}: {made.dimension} features, from {made.name}")
    print(f"digest {made.digest}")
    print(
        f"next: set features.prior = '{made.path.name}' in the job, and give every site this file"
    )
    return 0


def _audit(options: argparse.Namespace) -> int:
    from tacit.audit import audit_run, show_audit  # noqa: PLC0415

    audit = audit_run(options.run, forget=options.forget)
    if options.json:
        print(json.dumps(audit.record(), indent=2))
    else:
        show_audit(audit)
    return 0 if audit.passed else FAILED


if __name__ == "__main__":
    sys.exit(main())
