import uuid

import django.db.models.deletion
from django.db import migrations, models

import console.columns
from serving import histogram

HISTOGRAMS = ("ttft", "tpot", "e2e")
BATCH = 2000


def encode_histograms(apps, schema_editor):
    """Histograms of an earlier release, JSON text, into the compact columns."""
    Sample = apps.get_model("console", "Sample")
    old = Sample.objects.order_by("pk").values_list("pk", *(f"{name}_json" for name in HISTOGRAMS))
    statement = "UPDATE console_sample SET ttft = %s, tpot = %s, e2e = %s WHERE id = %s"
    last = 0
    while rows := list(old.filter(pk__gt=last)[:BATCH]):
        last = rows[-1][0]
        values = [
            (*(histogram.encode({int(i): n for i, n in counts.items()}) for counts in found), pk)
            for pk, *found in rows
            if any(found)
        ]
        with schema_editor.connection.cursor() as cursor:
            cursor.executemany(statement, values)


class Migration(migrations.Migration):
    dependencies = [
        ("console", "0002_planning"),
    ]

    operations = [
        *(
            migrations.RenameField(model_name="sample", old_name=name, new_name=f"{name}_json")
            for name in HISTOGRAMS
        ),
        *(
            migrations.AddField(
                model_name="sample", name=name, field=console.columns.CountsField(default=dict)
            )
            for name in (*HISTOGRAMS, "queue")
        ),
        migrations.RunPython(encode_histograms, migrations.RunPython.noop),
        *(migrations.RemoveField(model_name="sample", name=f"{name}_json") for name in HISTOGRAMS),
        migrations.AlterField(
            model_name="sample",
            name="deployment",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="samples",
                to="console.deployment",
            ),
        ),
        migrations.CreateModel(
            name="SampleMark",
            fields=[
                ("resolution_s", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("complete_to", models.BigIntegerField(default=0, help_text="epoch seconds")),
            ],
        ),
        migrations.CreateModel(
            name="AlertWebhook",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("url", models.CharField(blank=True, max_length=500)),
                ("secret_encrypted", models.TextField(blank=True)),
                ("enabled", models.BooleanField(default=False)),
                ("sends_fast", models.BooleanField(default=True)),
                ("sends_slow", models.BooleanField(default=True)),
                ("sends_resolved", models.BooleanField(default=True)),
                ("version", models.PositiveIntegerField(default=1)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("deployment_name", models.CharField(max_length=40)),
                ("objective", models.CharField(help_text="ttft, tpot or errors", max_length=8)),
                (
                    "speed",
                    models.CharField(choices=[("fast", "Fast burn"), ("slow", "Slow burn")], max_length=4),
                ),
                ("long_window_s", models.PositiveIntegerField()),
                ("short_window_s", models.PositiveIntegerField()),
                ("factor", models.FloatField()),
                ("target", models.FloatField()),
                ("limit_s", models.FloatField(null=True)),
                ("burn_rate", models.FloatField(help_text="of the long window when it opened")),
                ("opened_at", models.FloatField(db_index=True)),
                ("resolved_at", models.FloatField(null=True)),
                ("reason", models.CharField(blank=True, help_text="why it was resolved", max_length=100)),
                (
                    "deployment",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="alerts",
                        to="console.deployment",
                    ),
                ),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="Slo",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("ttft_s", models.FloatField(blank=True, null=True)),
                ("tpot_s", models.FloatField(blank=True, null=True)),
                ("latency_target", models.FloatField(default=0.95)),
                ("success_target", models.FloatField(blank=True, null=True)),
                ("window_days", models.PositiveSmallIntegerField(default=30)),
                (
                    "deployment",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="slo",
                        to="console.deployment",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="SloStatus",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("evaluated_at", models.FloatField()),
                ("objectives", models.JSONField(default=list)),
                (
                    "deployment",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="slo_status",
                        to="console.deployment",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="WebhookDelivery",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("event", models.CharField(help_text="alert.opened, alert.resolved or test", max_length=20)),
                ("body", models.JSONField(default=dict)),
                (
                    "status",
                    models.CharField(
                        choices=[("queued", "Waiting"), ("delivered", "Delivered"), ("failed", "Given up")],
                        default="queued",
                        max_length=9,
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("last_status", models.PositiveSmallIntegerField(null=True)),
                ("last_error", models.CharField(blank=True, max_length=200)),
                ("created_at", models.FloatField()),
                ("next_at", models.FloatField()),
                ("finished_at", models.FloatField(null=True)),
                (
                    "alert",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="deliveries",
                        to="console.alert",
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at"],
            },
        ),
        migrations.AddConstraint(
            model_name="alert",
            constraint=models.UniqueConstraint(
                condition=models.Q(("resolved_at", None)),
                fields=("deployment_name", "objective", "speed"),
                name="alert_open_once",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(fields=["status", "next_at"], name="console_web_status_f8a055_idx"),
        ),
        migrations.CreateModel(
            name="GatewayHealth",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("queued", models.BigIntegerField(default=0)),
                ("spooled_bytes", models.BigIntegerField(default=0)),
                (
                    "unrecorded",
                    models.BigIntegerField(default=0, help_text="since that gateway replica started"),
                ),
                ("observed_at", models.FloatField()),
            ],
        ),
        migrations.CreateModel(
            name="LatencyTotal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("ttft", console.columns.CountsField(default=dict)),
                ("tpot", console.columns.CountsField(default=dict)),
                ("e2e", console.columns.CountsField(default=dict)),
                ("queue", console.columns.CountsField(default=dict)),
                ("ttft_sum_s", models.FloatField(default=0.0)),
                ("tpot_sum_s", models.FloatField(default=0.0)),
                ("e2e_sum_s", models.FloatField(default=0.0)),
                ("queue_sum_s", models.FloatField(default=0.0)),
                (
                    "deployment",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="latency_total",
                        to="console.deployment",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RequestTotal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("deployment_name", models.CharField(blank=True, max_length=40)),
                ("key_number", models.BigIntegerField(default=0)),
                ("status", models.PositiveSmallIntegerField()),
                ("outcome", models.CharField(max_length=10)),
                ("requests", models.BigIntegerField(default=0)),
                ("prompt_tokens", models.BigIntegerField(default=0)),
                ("cached_tokens", models.BigIntegerField(default=0)),
                ("completion_tokens", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("deployment_name", "key_number", "status", "outcome"),
                        name="request_total_unique",
                    )
                ],
            },
        ),
    ]
