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
    ]
