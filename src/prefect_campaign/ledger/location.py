"""Where everything of a user lives. Light on imports: `campaign status` starts here."""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prefect_campaign.model.errors import Refused

SCHEMA_REVISION = "0003"
"""Newest migration; a ledger at this revision is opened without loading the migration tool."""


@dataclass(frozen=True)
class Home:
    """The folder with the ledger, the run dirs and the results."""

    path: Path
    ledger_url: str

    def runs(self, campaign: str, round_: int) -> Path:
        """Run dirs of one round of a campaign: ``<exp_id>/a<n>/``."""
        return self._of(campaign, round_) / "runs"

    def results(self, campaign: str, round_: int) -> Path:
        """Where reports and tables of one round are written."""
        return self._of(campaign, round_) / "results"

    @property
    def skill_folders(self) -> list[Path]:
        """Where the user's own skills are, if there are any; they win over the shipped ones by name."""
        folder = self.path / "skills"
        return [folder] if folder.is_dir() else []

    @property
    def ledger_id(self) -> str:
        """Stands for the ledger in the world outside, e.g. on containers: equal for all who use it, and no secret."""
        url = self.ledger_url
        scheme, _, rest = url.partition("://")
        server, slash, path = rest.partition("/")
        where = f"{scheme.partition('+')[0]}://{server.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
        return hashlib.sha256(where.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def _of(self, campaign: str, round_: int) -> Path:
        return self.path / "campaigns" / (campaign if round_ == 1 else f"{campaign}.r{round_}")

    @classmethod
    def locate(cls) -> "Home":
        """The home named by ``CAMPAIGN_HOME`` (default ``~/.prefect-campaign``), nothing created.

        ``CAMPAIGN_LEDGER_URL`` moves the ledger alone, e.g. to PostgreSQL.
        """
        path = Path(os.environ.get("CAMPAIGN_HOME") or Path.home() / ".prefect-campaign").expanduser().absolute()
        url = os.environ.get("CAMPAIGN_LEDGER_URL") or f"sqlite:///{path / 'ledger.db'}"
        # What people write, and what the driver is called that we ask for.
        return cls(path, re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))

    def ensure(self) -> "Home":
        """Make the folder, and see that it can be written.

        Raises:
            Refused: it cannot.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise Refused(
                f"CAMPAIGN_HOME {self.path}: cannot be written ({error.strerror}); "
                "set CAMPAIGN_HOME to a folder of yours"
            ) from None
        return self
