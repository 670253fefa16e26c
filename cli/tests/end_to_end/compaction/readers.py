"""usage: readers.py polars|deltalake URL

Answers each line on standard input with a line of JSON: what the table holds, by device and date, or {"error": "..."}.
"""

import json
import os
import sys


def main(engine, url):
    ask = {"polars": with_polars, "deltalake": with_deltalake}[engine]
    options = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    options["AWS_ALLOW_HTTP"] = "true"
    for _ in sys.stdin:
        try:
            answer = ask(url, options)
        except Exception as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def with_polars(url, options):
    import polars as pl

    table = pl.scan_delta(url, storage_options=options)
    place = pl.struct("kafka_partition", "kafka_offset")
    groups = table.group_by("date", device="device_id").agg(
        rows=pl.len(),
        places=place.n_unique(),
        sum=pl.col("seq").sum(),
        first=pl.col("seq").min(),
        last=pl.col("seq").max(),
    )
    return groups.drop("date").collect().to_dicts()


def with_deltalake(url, options):
    from deltalake import DeltaTable, QueryBuilder
    import polars as pl

    sql = """SELECT device_id AS device, count(*) AS rows,
                    count(DISTINCT kafka_partition * 1000000000000 + kafka_offset) AS places,
                    sum(seq) AS sum, min(seq) AS first, max(seq) AS last
             FROM events GROUP BY device_id, date"""
    table = DeltaTable(url, storage_options=options)
    answer = QueryBuilder().register("events", table).execute(sql).read_all()
    return pl.DataFrame(answer).to_dicts()


if __name__ == "__main__":
    main(*sys.argv[1:])
