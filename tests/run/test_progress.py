"""Progress where there is no terminal."""

import logging

from randwire_det.run import progress


def test_without_a_terminal_the_log_tells_what_is_done(caplog, capfd, monkeypatch):
    monkeypatch.setattr(progress, "PERIOD", -1)
    logger = logging.getLogger("randwire_det.test")
    with caplog.at_level(logging.INFO):
        assert list(progress.progress("ab", 2, "letters", logger)) == ["a", "b"]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"{done} of 2 letters done, 0:00:00 to go" for done in (1, 2)]
    assert capfd.readouterr().err == ""
