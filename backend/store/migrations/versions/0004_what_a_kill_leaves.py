"""Versions that were never recorded, and the champions of the time before `reigns`."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SERVED = ("champion", "retired")
REASON = "before reigns were noted"

moment = sa.DateTime(timezone=True)
projects = sa.table("projects", sa.column("id"), sa.column("champion"))
versions = sa.table(
    "versions",
    sa.column("project"),
    sa.column("number"),
    sa.column("state"),
    sa.column("created_at", moment),
)
reigns = sa.table(
    "reigns",
    sa.column("project"),
    sa.column("number"),
    sa.column("former"),
    sa.column("at", moment),
    sa.column("how"),
    sa.column("reason"),
    sa.column("seen"),
    sa.column("watch", sa.JSON()),
)


def upgrade() -> None:
    """Add a table, and the reigns that can be told from the versions."""
    _unrecorded_versions()
    _reigns_of_before()


def downgrade() -> None:
    """Remove them."""
    op.drop_table("unrecorded_versions")
    op.execute(reigns.delete().where(reigns.c.reason == REASON))


def _unrecorded_versions() -> None:
    """Numbers of versions whose files are being written."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "unrecorded_versions",
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("number", whole, autoincrement=False, nullable=False),
        sa.Column("given_up", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.id"],
            name=op.f("fk_unrecorded_versions_project_projects"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project", "number", name=op.f("pk_unrecorded_versions")),
    )


def _reigns_of_before() -> None:
    """Have each version that was ever used reign since it was trained, in turn, the champion last.

    A champion that is older than another of them was chosen by hand, nobody knows when: since the
    newest was trained, at the earliest.
    """
    tx = op.get_bind()
    noted = set(tx.scalars(sa.select(reigns.c.project)))
    for project, champion in tx.execute(sa.select(projects.c.id, projects.c.champion)).all():
        own = sa.select(versions.c.number, versions.c.created_at).where(
            versions.c.project == project, versions.c.state.in_(SERVED)
        )
        served = [(*row, "promoted") for row in tx.execute(own.order_by(versions.c.number))]
        if champion is None or project in noted or not served:
            continue
        if served[-1][0] != champion:
            served.append((champion, served[-1][1], "activated"))
        former = None
        for number, at, how in served:
            row = {"project": project, "number": number, "former": former, "at": at, "how": how}
            tx.execute(reigns.insert().values(**row, reason=REASON, seen=0, watch={}))
            former = number
