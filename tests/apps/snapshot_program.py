"""What the apps of cases share: a program's class, and the methods by which a container makes one before its snapshot and asks it after."""

import os

import modal

OPTIONS = {
    "enable_memory_snapshot": True,
    "scaledown_window": 2,
    "max_containers": 1,
    "timeout": 600,
}


class Program:
    """What a program has open. answer: what `check` must say. saved: whether it is restored; otherwise its containers start without a snapshot."""

    what, answer = "", ""
    saved = True


class Kept(Program):
    """One that computes the same again. `compute` gives what can be compared."""

    answer = "the same"

    def __init__(self):
        self.load()
        self.first = self.compute()

    def load(self): ...

    def check(self):
        again = self.compute()
        return "the same" if again == self.first else f"{again}, not {self.first}"


class Asked:
    """The methods of the apps' `Case`. cases: the programs by name. Its subclass has the parameter `name`."""

    cases: dict[str, type[Program]]

    @modal.enter(snap=True)
    def prepare(self):
        self.maker = os.environ["MODAL_TASK_ID"]
        self.case = self.cases[self.name]()

    @modal.method()
    def check(self) -> dict:
        """task: who answers. restored: whether it came from the memory of another."""
        task = os.environ["MODAL_TASK_ID"]
        return {"answer": str(self.case.check()), "task": task, "restored": task != self.maker}


def cases(module: dict) -> dict[str, type[Program]]:
    """The programs of a module, by name."""
    return {name: case for name, case in module.items() if isinstance(case, type) and getattr(case, "what", "")}
