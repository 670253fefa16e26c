# Sourced by the scripts of this folder; defines functions only.
# shellcheck shell=bash

# What is fetched once and kept outside the repository.
cache_dir() {
  echo "${LAKEHOSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lakehose}"
}

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# A TCP port of 127.0.0.1 that nothing listens on. Below the kernel's ephemeral range, so that no outgoing
# connection takes it between this check and the server's bind.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((10000 + (RANDOM << 15 | RANDOM) % 22000))
    if ! port_open "$port"; then
      echo "$port"
      return
    fi
  done
  die "found no free port between 10000 and 32000"
}

port_open() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Whether process $1 still runs and is the one that was started with $2 on its command line (ids are reused).
runs() {
  [[ -n $1 ]] && ps -ww -o args= -p "$1" 2>/dev/null | grep -qF -- "$2"
}

# stop_process PID MARK SECONDS: asks, waits, then insists.
stop_process() {
  runs "$1" "$2" || return 0
  kill -TERM "$1" 2>/dev/null || true
  for ((i = 0; i < $3 * 10; i++)); do
    runs "$1" "$2" || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}

# One variable of a file of NAME=value lines; empty if the file or the name is missing.
read_env() {
  [[ -f $1 ]] || return 0
  sed -n "s/^$2=//p" "$1" | tail -n 1
}
