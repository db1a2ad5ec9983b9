"""All tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=254), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=100), nullable=False),
        sa.Column("session_uid", sa.String(length=64), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_api_tokens_secret_hash")),
    )
    op.create_index(op.f("ix_api_tokens_user"), "api_tokens", ["user"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("act", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=254), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=512), nullable=False),
        sa.Column("target_uid", sa.String(length=64), nullable=False),
        sa.Column("target_owner", sa.String(length=254), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_act_outcome"), "audit", ["act", "outcome"], unique=True)
    op.create_index(op.f("ix_audit_actor"), "audit", ["actor"], unique=False)
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_index(op.f("ix_audit_target_uid"), "audit", ["target_uid"], unique=False)
    op.create_table(
        "banner",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_banner")),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("handle_hash", sa.String(length=64), nullable=False),
        sa.Column("session_uid", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=254), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("login_id", sa.String(length=64), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        sa.UniqueConstraint("handle_hash", name=op.f("uq_grants_handle_hash")),
    )
    op.create_index(op.f("ix_grants_ended"), "grants", ["ended"], unique=False)
    op.create_index(op.f("ix_grants_login_id"), "grants", ["login_id"], unique=False)
    op.create_index(op.f("ix_grants_session_uid"), "grants", ["session_uid"], unique=False)
    op.create_index(op.f("ix_grants_user"), "grants", ["user"], unique=False)
    op.create_table(
        "history_sessions",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("owner", sa.String(length=254), nullable=False),
        sa.Column("template", sa.String(length=253), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.String(length=16), nullable=True),
        sa.Column("ended_by", sa.String(length=254), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_history_sessions")),
    )
    op.create_index(
        op.f("ix_history_sessions_created"), "history_sessions", ["created"], unique=False
    )
    op.create_index(op.f("ix_history_sessions_ended"), "history_sessions", ["ended"], unique=False)
    op.create_index(
        op.f("ix_history_sessions_owner_created"),
        "history_sessions",
        ["owner", "created"],
        unique=False,
    )
    op.create_table(
        "logins",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=254), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("credential", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logins")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_logins_secret_hash")),
    )
    op.create_index(op.f("ix_logins_user"), "logins", ["user"], unique=False)
    op.create_table(
        "notice_subscriptions",
        sa.Column("user", sa.String(length=254), nullable=False),
        sa.Column("kinds", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user", name=op.f("pk_notice_subscriptions")),
    )
    op.create_table(
        "oidc_subjects",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("user", sa.String(length=254), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("bound", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "user", name=op.f("pk_oidc_subjects")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_oidc_subjects_issuer_subject")),
    )
    op.create_table(
        "recordings",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("owner", sa.String(length=254), nullable=False),
        sa.Column("template", sa.String(length=253), nullable=False),
        sa.Column("run", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("keep_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner_may_watch", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recordings")),
    )
    for column in ("started", "uid", "owner", "keep_until"):
        op.create_index(op.f(f"ix_recordings_{column}"), "recordings", [column], unique=False)
    op.create_table(
        "history_runs",
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ready", sa.DateTime(timezone=True), nullable=True),
        sa.Column("node", sa.String(length=253), nullable=False),
        sa.Column("pod", sa.String(length=253), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=True),
        sa.Column("renderer", sa.String(length=32), nullable=True),
        sa.Column("encoder", sa.String(length=32), nullable=True),
        sa.Column("cpu", sa.Float(), nullable=True),
        sa.Column("memory_gib", sa.Float(), nullable=True),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=True),
        sa.Column("queue_seconds", sa.Float(), nullable=True),
        sa.Column("startup_seconds", sa.Float(), nullable=True),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.String(length=16), nullable=True),
        sa.Column("end_detail", sa.Text(), nullable=False),
        sa.Column("agent_minutes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["uid"],
            ["history_sessions.uid"],
            name=op.f("fk_history_runs_uid_history_sessions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("uid", "start", name=op.f("pk_history_runs")),
    )
    op.create_index(op.f("ix_history_runs_ended"), "history_runs", ["ended"], unique=False)
    op.create_index(op.f("ix_history_runs_start"), "history_runs", ["start"], unique=False)
