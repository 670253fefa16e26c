"""What ./query runs; its usage is there."""

import glob
import json
import os
import sys
import tempfile
from urllib.parse import urlparse

import duckdb
import duckdb_extension_delta
import duckdb_extension_httpfs


def main(args):
    con = connect()
    if args == ["--serve"]:
        for line in sys.stdin:
            if line.strip():
                print(answer(con, line), flush=True)
        return
    format = "json"
    if args and args[0] == "--csv":
        format, args = "csv", args[1:]
    if len(args) > 1 or (args and args[0].startswith("--")):
        sys.exit("usage: query [--csv] [SQL] | query --serve")
    try:
        sys.stdout.write(run(con, args[0] if args else sys.stdin.read(), format))
    except duckdb.Error as error:
        sys.exit(f"query: {error}")


def connect():
    con = duckdb.connect()
    # Straight from the packages: nothing is downloaded, nothing is copied into the home directory.
    for package in (duckdb_extension_httpfs, duckdb_extension_delta):
        folder = os.path.dirname(package.__file__)
        [file] = glob.glob(f"{folder}/extensions/v{duckdb.__version__}/*.duckdb_extension")
        con.load_extension(file)
    con.execute("SET TimeZone = 'UTC'")
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        con.execute(secret(os.environ))
    return con


def secret(env):
    options = {
        "KEY_ID": env["AWS_ACCESS_KEY_ID"],
        "SECRET": env.get("AWS_SECRET_ACCESS_KEY", ""),
        "REGION": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
    }
    endpoint = urlparse(env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or "")
    if endpoint.netloc:
        options |= {"ENDPOINT": endpoint.netloc, "URL_STYLE": "path", "USE_SSL": endpoint.scheme != "http"}
    text = ", ".join(f"{name} {literal(value)}" for name, value in options.items())
    return f"CREATE SECRET (TYPE s3, {text})"


def literal(value):
    return str(value).lower() if isinstance(value, bool) else "'" + value.replace("'", "''") + "'"


def answer(con, sql):
    try:
        rows = [json.loads(row) for row in run(con, sql, "json").splitlines()]
        return json.dumps({"rows": rows})
    except duckdb.Error as error:
        return json.dumps({"error": str(error)})


def run(con, sql, format):
    statements = con.extract_statements(sql)
    if not statements:
        return ""
    *first, last = statements
    for statement in first:
        con.execute(statement)
    if last.type != duckdb.StatementType.SELECT:
        con.execute(last)
        return ""
    # DuckDB's own writer, because Python's types would lose some of DuckDB's (time zones, nested types).
    with tempfile.TemporaryDirectory() as folder:
        query = last.query.strip().rstrip(";")
        con.execute(f"COPY (\n{query}\n) TO '{folder}/rows' (FORMAT {format})")
        with open(f"{folder}/rows", encoding="utf-8") as file:
            return file.read()


if __name__ == "__main__":
    main(sys.argv[1:])
