"""What came after the first loop."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables."""
    _strategies()
    op.drop_column("projects", "revision")  # `published` ends with it
    _events_and_reconciler()


def downgrade() -> None:
    """Remove them."""
    op.drop_table("strategy_choices")
    op.drop_column("projects", "strategy_options")
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column(
        "projects", sa.Column("revision", whole, nullable=False, server_default="1")
    )
    for table in ("forgotten_events", "reconciliations", "inventory", "task_graves", "reviews"):
        op.drop_table(table)
    for table, column in (
        ("annotations", "learned_at"),
        ("annotations", "review"),
        ("inbox", "project"),
    ):
        op.drop_column(table, column)


def _events_and_reconciler() -> None:
    """Reviews, graves of tasks, inventories, and how the reconciler stands."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    moment = sa.DateTime(timezone=True)
    op.add_column("inbox", sa.Column("project", whole, nullable=True))
    op.add_column("annotations", sa.Column("review", sa.Text(), nullable=True))
    op.add_column("annotations", sa.Column("learned_at", moment, nullable=True))
    op.execute("UPDATE annotations SET learned_at = updated_at")
    op.create_table(
        "reviews",
        sa.Column("annotation", whole, autoincrement=False, nullable=False),
        sa.Column("review", whole, nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("at", moment, nullable=False),
        sa.PrimaryKeyConstraint("annotation", name=op.f("pk_reviews")),
    )
    op.create_index(op.f("ix_reviews_review"), "reviews", ["review"], unique=False)
    op.create_table(
        "task_graves",
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("id", whole, autoincrement=False, nullable=False),
        sa.Column("buried_at", moment, nullable=False),
        sa.Column("created_at", moment, nullable=True),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_task_graves")),
    )
    op.create_table(
        "inventory",
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("task", whole, autoincrement=False, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("project", "task", name=op.f("pk_inventory")),
    )
    op.create_table(
        "reconciliations",
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("config_at", moment, nullable=True),
        sa.Column("wanted_at", moment, nullable=True),
        sa.Column("tried_at", moment, nullable=True),
        sa.Column("begun_at", moment, nullable=True),
        sa.Column("done_at", moment, nullable=True),
        sa.Column("full_at", moment, nullable=True),
        sa.Column("gone_at", moment, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("recovered", whole, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_reconciliations")),
    )
    op.create_table(
        "forgotten_events",
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("count", whole, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("project", "source", name=op.f("pk_forgotten_events")),
    )


def _strategies() -> None:
    """The options of a project's strategy, and which strategy has ordered its queue since when."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column(
        "projects", sa.Column("strategy_options", sa.JSON(), server_default="{}", nullable=False)
    )
    op.create_table(
        "strategy_choices",
        sa.Column("id", whole, nullable=False),
        sa.Column("project", whole, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("acting", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"],
            ["projects.id"],
            name=op.f("fk_strategy_choices_project_projects"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_strategy_choices")),
    )
    op.create_index(
        op.f("ix_strategy_choices_project_id"), "strategy_choices", ["project", "id"], unique=False
    )
