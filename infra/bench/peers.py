"""What ./peers runs; its usage is there.

Files are written as lakehose writes them, as far as a program can: zstd 3, row groups of 122,880 rows, up to 128 MiB.
"""

import argparse
import glob
import json
import os
import resource
import sys
import tempfile
import time

sys.path.insert(0, f"{os.path.dirname(os.path.abspath(__file__))}/../duckdb")
import query

ROW_GROUP = 122_880
PAGE = 131_072
FILE_BYTES = 128 << 20
# Of each query.
ROUNDS = 7


def main():
    parser = argparse.ArgumentParser(prog="peers")
    peers = parser.add_subparsers(required=True)
    for run in (duckdb, deltalake, queries):
        peer = peers.add_parser(run.__name__)
        peer.set_defaults(run=run)
        peer.add_argument("table")
        if run is duckdb:
            peer.add_argument("--memory")
        if run is deltalake:
            peer.add_argument("--sorted", action="store_true")
        if run is queries:
            for name in ("--date", "--device", "--id"):
                peer.add_argument(name, required=True)
    args = parser.parse_args()
    print(json.dumps(args.run(args)))


def duckdb(args):
    """One file of all rows, in the table's order. It looks for no copies of events and does not read the file back."""
    import duckdb

    con = duckdb.connect()
    files = sorted(glob.glob(f"{args.table}/date=*/*.parquet"))
    with tempfile.TemporaryDirectory(dir=args.table) as folder:
        con.execute(f"SET temp_directory = {query.literal(folder)}")
        if args.memory:
            con.execute(f"SET memory_limit = {query.literal(args.memory)}")
        sql = f"""COPY (
            SELECT * FROM read_parquet($files, hive_partitioning = false)
            ORDER BY device_id, time, kafka_partition, kafka_offset
        ) TO {query.literal(folder + "/sorted.parquet")} (
            FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, ROW_GROUP_SIZE {ROW_GROUP}
        )"""
        try:
            took = measure(lambda: con.execute(sql, {"files": files}))
        except duckdb.OutOfMemoryException as error:
            return {"failed": str(error).splitlines()[0]}
        rows = con.execute("SELECT count(*) FROM read_parquet($file)", {"file": f"{folder}/sorted.parquet"})
        return took | {"rows": rows.fetchone()[0], "files": 1, "bytes": os.path.getsize(f"{folder}/sorted.parquet")}


def deltalake(args):
    """As large files as lakehose makes. It looks for no copies and does not read files back; it sorts rows if told to, along
    a curve through the values of the columns."""
    from deltalake import BloomFilterProperties, ColumnProperties, DeltaTable, WriterProperties

    bloom = BloomFilterProperties(True, ndv=ROW_GROUP)
    packed = ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")
    # As lakehose writes them, but for the level of `id`, which cannot be set for a column.
    apart = "DELTA_LENGTH_BYTE_ARRAY"
    properties = WriterProperties(
        compression="ZSTD",
        compression_level=3,
        max_row_group_size=ROW_GROUP,
        data_page_size_limit=PAGE,
        column_properties={
            "id": ColumnProperties(dictionary_enabled=False, encoding=apart, bloom_filter_properties=bloom),
            "data": ColumnProperties(dictionary_enabled=False, encoding=apart),
            "time": packed,
            "received_at": packed,
            "kafka_offset": packed,
        },
    )
    table = DeltaTable(args.table)
    settings = {"target_size": FILE_BYTES, "writer_properties": properties}
    if args.sorted:
        took = measure(lambda: table.optimize.z_order(["device_id", "time"], **settings))
    else:
        took = measure(lambda: table.optimize.compact(**settings))
    files = DeltaTable(args.table).get_add_actions(flatten=True)
    [rows, sizes] = [files.column(name).to_pylist() for name in ("num_records", "size_bytes")]
    return took | {"rows": sum(rows), "files": len(rows), "bytes": sum(sizes)}


def measure(work):
    before = resident()
    cpu, wall = cpu_seconds(), time.monotonic()
    work()
    return {
        "cpu_seconds": cpu_seconds() - cpu,
        "wall_seconds": time.monotonic() - wall,
        "memory_before": before,
        "memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def queries(args):
    """The median time of each query, with its answer."""
    con = query.connect()
    table = f"delta_scan({query.literal(args.table)})"
    of_date = f"date = {query.literal(args.date)}"
    of_device = f"device_id = {query.literal(args.device)}"
    of_id = f"id = {query.literal(args.id)}"
    # Of doubles, an average would depend on the order of rows.
    averages = "count(*), avg(temp::DECIMAL(6, 2)), max(battery)"
    asked = {
        "count of all rows": f"SELECT count(*) FROM {table}",
        "all rows, grouped": f"SELECT fw, {averages} FROM {table} GROUP BY fw ORDER BY fw",
        "one date, one device": f"SELECT {averages} FROM {table} WHERE {of_date} AND {of_device}",
        "last 5 of one device": f"SELECT id, time::VARCHAR FROM {table} WHERE {of_device} ORDER BY time DESC LIMIT 5",
        "one id of one date": f"SELECT device_id, time::VARCHAR, temp FROM {table} WHERE {of_date} AND {of_id}",
    }
    return [{"query": name} | ask(con, sql) for name, sql in asked.items()]


def ask(con, sql):
    # The first brings files into the cache of the system, which the others then find there.
    answer = str(con.execute(sql).fetchall())
    times = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        con.execute(sql).fetchall()
        times.append((time.monotonic() - began) * 1000)
    return {"milliseconds": sorted(times)[ROUNDS // 2], "answer": answer}


if __name__ == "__main__":
    main()
