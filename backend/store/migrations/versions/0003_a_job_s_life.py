"""What jobs, the gate and strategies need to be watched and chosen."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables."""
    _jobs_and_schedules()
    _reigns()
    op.add_column(
        "projects",
        sa.Column("weighting", sa.String(length=16), nullable=False, server_default="off"),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("reigns")
    op.drop_column("projects", "weighting")
    op.drop_column("projects", "rollback")
    for table, column in (
        ("jobs", "on_cpu"),
        ("jobs", "halvings"),
        ("jobs", "again_at"),
        ("jobs", "started_at"),
        ("projects", "schedule_set_at"),
        ("projects", "schedule"),
    ):
        op.drop_column(table, column)


def _reigns() -> None:
    """Which version was the champion when, how it was taken, and what follows from a fall."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column(
        "projects",
        sa.Column("rollback", sa.String(length=16), nullable=False, server_default="propose"),
    )
    op.create_table(
        "reigns",
        sa.Column("id", whole, nullable=False),
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("number", whole, autoincrement=False, nullable=False),
        sa.Column("former", whole, nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("how", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seen", whole, autoincrement=False, nullable=False),
        sa.Column("watch", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.id"],
            name=op.f("fk_reigns_project_projects"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reigns")),
    )
    op.create_index(op.f("ix_reigns_project_id"), "reigns", ["project", "id"], unique=False)


def _jobs_and_schedules() -> None:
    """How a training goes on after a fault, and when a project trains by the clock."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    moment = sa.DateTime(timezone=True)
    op.add_column(
        "projects", sa.Column("schedule", sa.Text(), nullable=False, server_default="")
    )
    op.add_column("projects", sa.Column("schedule_set_at", moment, nullable=True))
    op.add_column("jobs", sa.Column("started_at", moment, nullable=True))
    op.add_column("jobs", sa.Column("again_at", moment, nullable=True))
    op.add_column("jobs", sa.Column("halvings", whole, nullable=False, server_default="0"))
    op.add_column(
        "jobs", sa.Column("on_cpu", sa.Boolean(), nullable=False, server_default=sa.false())
    )
