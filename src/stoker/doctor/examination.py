"""The whole examination: which checks a server with these settings needs, and how what failed is put right."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.config import Settings
from stoker.doctor import apt, gpu, kernel, machine, programs, sandbox
from stoker.doctor.check import Check, Finding, Report, State
from stoker.errors import StokerError

_ALWAYS = (machine.PYTHON, machine.DATA, machine.DISK, programs.CERTIFICATES, programs.BUCKETS, gpu.GPU)
_FOR_SANDBOXES = (
    machine.SYSTEM,
    machine.RIGHTS,
    kernel.OVERLAY,
    kernel.CGROUPS,
    kernel.FORWARDING,
    programs.KEYRING,
    sandbox.RUNSC,
    machine.AMX,
    programs.IPROUTE,
    programs.NFTABLES,
    programs.BUILDAH,
    programs.RUNC,
    programs.MMDEBSTRAP,
)


@dataclass(frozen=True)
class Result:
    """A check and what it found."""

    check: Check
    finding: Finding


def examine(settings: Settings) -> list[Result]:
    """Looks at everything that the runtime of these settings needs."""
    results = []
    for check in checks_for(settings):
        results.append(Result(check, check.look(settings)))
        if check is machine.SYSTEM and results[-1].finding.state is State.FAILED:
            break  # the rest would ask this system for things that it cannot have
    return results


def checks_for(settings: Settings) -> tuple[Check, ...]:
    """The checks in the order in which they are shown and repaired."""
    return (*_FOR_SANDBOXES, *_ALWAYS) if settings.runtime == "runsc" else _ALWAYS


def fix(settings: Settings, results: list[Result], report: Report) -> list[str]:
    """Repairs what is not as it should be and can be repaired: packages first, all at once. Returns what went wrong, as sentences."""
    failing = [result.check for result in results if result.finding.state is not State.OK]
    faults = []
    packages = [package for check in failing for package in check.packages]
    if packages:
        try:
            apt.install(packages, report)
        except StokerError as error:
            faults.append(str(error))
    for check in failing:
        if check.repair is not None:
            try:
                check.repair(settings, report)
            except StokerError as error:
                faults.append(str(error))
    return faults
