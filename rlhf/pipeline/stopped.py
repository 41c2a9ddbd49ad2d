"""The word of a run that was asked to stop and did."""


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop, and everything is saved
    """A signal stopped a stage after it saved.

    Args:
        signum: the signal.
        stage: the stage that saved.
        resume_with: the command that goes on.
    """

    def __init__(self, signum: int, stage: str, resume_with: str) -> None:
        super().__init__(f"stopped in the {stage} stage; everything is saved\n  Go on with: {resume_with}")
        self.signum = signum
