"""The numbers of a detector's training for `run.trackers`, as one of detectron2's writers."""

from collections import defaultdict

from detectron2.utils.events import EventWriter, get_event_storage

from ..run.trackers import Trackers

WINDOW = 20  # iterations that a smoothed number is the median of, as in detectron2's own writers


class TrackerWriter(EventWriter):
    """Sends what metrics.json holds as well.

    Attributes:
        trackers: set it before the training begins; None for none.
    """

    def __init__(self):
        self.trackers: Trackers | None = None
        self._last = -1

    def write(self) -> None:
        if self.trackers is None:
            return
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(WINDOW).items()
        ):
            if iteration > self._last:
                found[iteration][name] = float(value)
        for iteration, values in sorted(found.items()):
            self.trackers.log(values, iteration)
        self._last = max([self._last, *found])

    def close(self) -> None:
        if self.trackers is not None:
            self.trackers.close()
