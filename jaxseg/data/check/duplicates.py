"""Images that two patients share: in two splits they would be scored as if they had not been learnt from."""

from collections import defaultdict

from jaxseg.data.check.report import FEW


class Copies:
    """Finds images that are alike to the last bit under several patients; constant ones (empty air) aside."""

    def __init__(self):
        self._first: dict[str, tuple[str, str]] = {}  # digest of an image -> its first case, and whose that is
        self._pairs: dict[tuple[str, str], int] = defaultdict(int)  # (first case, later one) -> images that they share

    def see(self, digest: str, case: str, patient: str) -> None:
        """One more image that is not constant."""
        first, whose = self._first.setdefault(digest, (case, patient))
        if whose != patient:
            self._pairs[first, case] += 1

    def warnings(self) -> list[str]:
        """A line, where there is any."""
        if not self._pairs:
            return []
        named = ", ".join(f"{one} = {other}" for one, other in list(self._pairs)[:FEW])
        return [
            f"{len(self._pairs)} pairs of cases of different patients hold the same image ({named}"
            f"{', ...' if len(self._pairs) > FEW else ''}): give them one patient name, or keep one copy; "
            "training refuses them in two splits"
        ]
