"""What a diagnosis is made of: `Finding`, and `Diagnosis`, a sequence of them."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    name : such as "dead units"
    evidence : the numbers it was found by, with their bounds
    advice : what helps
    layer : index in `net.layers` of where it shows most, or None
    step : number of updates after which it was seen first, or None
    epoch : number of finished epochs after which it was seen, or None
    """

    name: str
    evidence: str
    advice: str
    layer: int | None = None
    step: int | None = None
    epoch: int | None = None

    def __str__(self) -> str:
        """Return name and place, evidence and advice, a line each."""
        places = {"layer": self.layer, "step": self.step, "epoch": self.epoch}
        where = ", ".join(f"{name} {at}" for name, at in places.items() if at is not None)
        head = f"{self.name} ({where})" if where else self.name
        return f"{head}\n  evidence: {self.evidence}\n  advice: {self.advice}"


@dataclass(frozen=True)
class Diagnosis:
    """A sequence of findings: true when there is one, `for finding in diagnosis` goes through them.

    Attributes
    ----------
    findings : tuple of Finding, causes first; empty when nothing was found
    missing : tuple of str, what could not be judged and what that would need
    summary : the numbers that were looked at where nothing may be found in them, or ""
    """

    findings: tuple[Finding, ...]
    missing: tuple[str, ...] = ()
    summary: str = ""

    def __iter__(self) -> Iterator[Finding]:
        """Go through the findings."""
        return iter(self.findings)

    def __getitem__(self, index: int) -> Finding:
        """Return a finding."""
        return self.findings[index]

    def __len__(self) -> int:
        """Return the number of findings."""
        return len(self.findings)

    @property
    def names(self) -> list[str]:
        """The names of the findings."""
        return [finding.name for finding in self.findings]

    def __str__(self) -> str:
        """Return the summary, the findings with evidence and advice, and what is missing."""
        lines = [self.summary] if self.summary else []
        lines += [str(finding) for finding in self.findings] or ["nothing found"]
        return "\n".join([*lines, *(f"not judged: {what}" for what in self.missing)])
