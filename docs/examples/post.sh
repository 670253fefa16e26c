#!/usr/bin/env bash
# usage: post.sh URL FILE
#
# Posts a file of events, one JSON object a line, until a gateway has them: each with an `id` of its own, so that none is
# stored twice. Ends with 0 when all are accepted, with 1 when some never will be, with 2 when the time is over.
# LAKEHOSE_KEY is sent as API key, if it is set.
set -euo pipefail
url=$1 file=$2
give_up_at=$((SECONDS + ${GIVE_UP_AFTER:-600}))
# The same file has the same key, also when this is started anew.
key=$(sha256sum "$file" | cut -c 1-32)
answer=$(mktemp) head=$(mktemp)
trap 'rm -f "$answer" "$head"' EXIT

post() {
  : >"$head"
  curl --silent --show-error --max-time 30 "$url" \
    ${LAKEHOSE_KEY:+--header "Authorization: Bearer $LAKEHOSE_KEY"} \
    --header 'Content-Type: application/x-ndjson' \
    --header "Idempotency-Key: \"$key\"" \
    --data-binary "@$file" --dump-header "$head" --output "$answer" --write-out '%{http_code}' || echo " no answer"
}

pause=1
while true; do
  case $(post) in
    202)
      # Sent again under its key, the gateway takes up what is missing, and nothing twice.
      if ! grep -qE '"(rate_limited|log_unavailable)"' "$answer"; then
        cat "$answer"
        exit $(($(grep -c '"index"' "$answer") > 0))
      fi
      ;;
    408 | 409 | 429 | 5?? | *"no answer") ;;
    *)
      if ! grep -q ':broken-body"' "$answer"; then
        cat "$answer" >&2
        exit 1
      fi
      ;;
  esac
  wait=$(sed -n 's/^retry-after: *\([0-9]*\).*/\1/Ip' "$head")
  sleep "$((${wait:-$pause} + RANDOM % 2)).$((RANDOM % 10))"
  pause=$((pause < 30 ? pause * 2 : 60))
  ((SECONDS < give_up_at)) || exit 2
done
